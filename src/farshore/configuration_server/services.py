"""What the API's endpoints work with; made once in main.py, reached through ``request.app.state``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from farshore.catalog.database import Catalog
from farshore.configuration_server.agent_releases import AgentReleases
from farshore.configuration_server.jobs.engine import JobEngine
from farshore.configuration_server.pki.issuing import Issuer
from farshore.configuration_server.sealing import Sealer
from farshore.configuration_server.settings import Settings
from farshore.configuration_server.vault_access import VaultAccess
from farshore.configuration_server.waiting import Waiting
from farshore.configuration_server.web.authenticators import Authenticator
from farshore.configuration_server.web.limits import Limits
from farshore.model.ports import Clock
from farshore.protection.push.signing import ReleaseKey
from farshore.recovery.context import RecoveryContext
from farshore.recovery.readiness import ReadinessWatch


@dataclass(frozen=True)
class Services:
    """One installation's parts."""

    settings: Settings
    catalog: Catalog
    issuer: Issuer
    vault: VaultAccess
    jobs: JobEngine
    sealer: Sealer
    clock: Clock
    limits: Limits
    authenticators: Sequence[Authenticator]
    """Who sent a request is asked of them in this order."""
    release_key: ReleaseKey
    recovery: RecoveryContext
    readiness: ReadinessWatch
    waiting: Waiting = field(default_factory=Waiting)
    """The agents that wait for commands."""
    renew: Callable[[], None] = lambda: None
    """Put to use at once what was changed about certificates."""
    agent_releases: AgentReleases = field(default_factory=AgentReleases)
