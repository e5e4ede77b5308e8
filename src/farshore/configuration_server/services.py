"""What the API's endpoints work with; created once in main.py, available as ``request.app.state``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from farshore.catalog import machines, policies, process_servers
from farshore.catalog.database import Catalog, Transaction
from farshore.catalog.together import Together
from farshore.configuration_server.agent_releases import AgentReleases
from farshore.configuration_server.jobs.engine import JobEngine
from farshore.configuration_server.pki.issuing import Issuer
from farshore.configuration_server.sealing import SecretSealer
from farshore.configuration_server.settings import Settings
from farshore.configuration_server.vault_access import VaultAccess
from farshore.configuration_server.waiting import Waiting
from farshore.configuration_server.web.authenticators import Authenticator
from farshore.configuration_server.web.limits import RequestLimits
from farshore.model.ports import Clock
from farshore.protection.point_room import PointRoom
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
    sealer: SecretSealer
    clock: Clock
    limits: RequestLimits
    authenticators: Sequence[Authenticator]
    """They identify a request's sender, in this order."""
    release_key: ReleaseKey
    recovery: RecoveryContext
    readiness: ReadinessWatch
    waiting: Waiting = field(default_factory=Waiting)
    """The agents that wait for commands."""
    renew: Callable[[], None] = lambda: None
    """Called so that changes of certificates take effect at once."""
    agent_releases: AgentReleases = field(default_factory=AgentReleases)
    point_room: PointRoom = field(default_factory=PointRoom)
    gather_seconds: float = 0.1
    """Time for which heartbeats are collected that are written together."""

    @cached_property
    def heartbeats(self) -> Together:
        """Writes heartbeats: those that arrive together share one transaction."""
        return Together(self.catalog, _read_for_heartbeats, self.gather_seconds)


def _read_for_heartbeats(tx: Transaction, wanted: Sequence[str]) -> object:
    return machines.reporting(tx, wanted), policies.every(tx), process_servers.every(tx)
