"""What process servers and the configuration server say to each other."""

from __future__ import annotations

from typing import Dict, List

from farshore.api_types.body import Body
from farshore.api_types.machines import Description, EpochKind


class Registration(Body):
    """``POST /v1/process-servers/self``. ``url`` is where agents reach it."""

    url: str
    version: str


class ProcessServerSettings(Body):
    """The answer. ``vault_key`` (hex) is held in memory only and never logged."""

    vault_url: str
    vault_key: str
    spool_limit: int = 4 << 30
    seal_every: float = 0.5
    """Seconds after which waiting records are sealed into a segment, however few."""


class StreamGrant(Body):
    """``GET /v1/process-servers/self/streams/{machine}/{epoch}``: is this epoch open, and what is it?
    404/410 problems say that it is not."""

    machine: str
    epoch: int
    kind: EpochKind
    parent_epoch: int = 0
    parent_sequence: int = 0
    description: Description


class PointReport(Body):
    """One new recovery point, durable in the vault."""

    machine: str
    epoch: int
    sequence: int
    time: int
    kind: str
    name: str = ""
    id: str = ""


class EpochReport(Body):
    """An epoch became consistent."""

    machine: str
    epoch: int
    consistent_from: int
    time: int


class StreamReport(Body):
    """How one stream stands. Sequences are the newest at each stage; seconds are stage delays."""

    machine: str
    epoch: int
    received: int
    stored: int
    stored_time: int
    """Of the newest consistent state that is in the vault, ns since 1970 UTC; 0: unknown."""
    spooled_bytes: int
    lag_spool: float
    lag_seal: float
    lag_store: float


class ServerReport(Body):
    """``POST /v1/process-servers/self/report``, every second or so; repeated until answered: handle it idempotently."""

    url: str
    version: str
    spool_bytes: int
    spool_limit: int
    store_trouble: str = ""
    streams: List[StreamReport] = []
    points: List[PointReport] = []
    epochs: List[EpochReport] = []


class StreamName(Body):
    """One epoch of one machine."""

    machine: str
    epoch: int


class ReportAnswer(Body):
    """The answer to a ServerReport: of the streams reported, those whose epoch is closed. Accept nothing more for them;
    what was received stays good and must still reach the vault."""

    closed: List[StreamName] = []


class ProcessServer(Body):
    """A process server as users see it (``GET /v1/process-servers``)."""

    id: str
    url: str
    version: str = ""
    last_seen: int = 0
    healthy: bool = False
    spool_bytes: int = 0
    spool_limit: int = 0
    store_trouble: str = ""
    machines: int = 0


class VaultStatus(Body):
    """``GET /v1/vault``. Bytes; ``machines`` maps machine ids to how many points the catalog knows."""

    url: str
    vault: str
    reachable: bool
    trouble: str = ""
    machines: Dict[str, int] = {}


class ServerStatus(Body):
    """``GET /v1/status``: no certificate needed, so it tells nothing that a stranger could use."""

    product: str = "farshore"
    version: str
    authority_fingerprint: str
    api_versions: List[str] = ["v1"]
