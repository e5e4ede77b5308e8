"""The messages between process servers and the configuration server."""

from __future__ import annotations

import enum
from typing import Annotated, Dict, List, Optional

from pydantic import Field

from farshore.api_types.bandwidth import Rate
from farshore.api_types.body import Body, Label, Moment, Natural, Pem, Prose, Seconds, Shown, Token, Url
from farshore.api_types.clocks import ClockStanding
from farshore.api_types.invitations import Invitation
from farshore.api_types.machines import Description, EpochKind
from farshore.api_types.policies import Limits
from farshore.api_types.vmware import DiscoveryOrder
from farshore.model.cadence import DEFAULT_RPO
from farshore.model.point import PointKind

RequestName = Annotated[str, Field(max_length=16, pattern="^[a-z]*$")]
MOST_REPORTED = 20_000
"""Maximum entries of one list of a report."""


class Registration(Body):
    """``POST /v1/process-servers/self``. ``url`` is the address at which agents reach it."""

    url: Url
    version: Label


class ProcessServerSettings(Body):
    """The answer. ``upkeep_key``: 32 bytes in hex, held in memory only and never logged; it opens no machine's data."""

    vault_url: str
    upkeep_key: str
    spool_limit: int = 4 << 30
    seal_every: float = 0.0
    """Seconds after which waiting records are sealed into a segment, however few; 0: as each machine's policy asks."""
    generation: int = 0
    """The generation as which the vault is owned: once there is a later one, nothing more is written to it. 0:
    unknown."""


class ChunkKeys(Body):
    """The keys of the chunks of one deduplication domain, 32 bytes each in hex; ``domain`` 0 is the installation's."""

    domain: int
    seal: str
    hash: str


class MachineKeys(Body):
    """``GET /v1/process-servers/self/machines/{machine}/keys``: what the calling process server needs to store what it
    has of a machine, and to read what that depends on. Held in memory only and never logged. ``key``: 32 bytes in
    hex."""

    machine: str
    key: str
    chunks: List[ChunkKeys] = []
    """Of the domains of those epochs that it serves or served."""


class StreamGrant(Body):
    """``GET /v1/process-servers/self/streams/{machine}/{epoch}``: whether this epoch is open, and its properties.
    404/410 problems say that it is not open."""

    machine: str
    epoch: int
    kind: EpochKind
    parent_epoch: int = 0
    parent_sequence: int = 0
    exact: bool = False
    """It builds on the parent at exactly ``parent_sequence``; otherwise at the parent's last record."""
    description: Description
    domain: int = 0
    """The deduplication domain of the epoch's base."""
    asked_rpo: float = DEFAULT_RPO
    """Maximum age of the newest stored state of a busy machine, in seconds, as its policy asks."""
    certificates: Optional[List[str]] = None
    """Serial numbers (lower-case hex) of the machine's valid certificates: no other opens the stream. None: the
    configuration server is an older one and does not say."""


class PointReport(Body):
    """One new recovery point, durable in the vault."""

    machine: Label
    epoch: Natural
    sequence: Natural
    time: Moment
    kind: str = Field(max_length=32, pattern=f"^({'|'.join(kind.value for kind in PointKind)})$")
    name: Shown = ""
    id: Shown = ""


class EpochReport(Body):
    """An epoch became consistent."""

    machine: Label
    epoch: Natural
    consistent_from: Natural
    time: Moment


class StreamName(Body):
    """One epoch of one machine."""

    machine: Label
    epoch: Natural


class StreamReport(Body):
    """The state of one stream. Sequences are the newest at each stage; seconds are stage delays."""

    machine: Label
    epoch: Natural
    received: Natural
    stored: Natural
    written: Optional[Natural] = None
    """The last stored sequence with more than marks; None: unknown."""
    stored_time: Moment
    """Of the newest consistent state that is in the vault, ns since 1970 UTC; 0: unknown."""
    spooled_bytes: Natural
    lag_spool: Seconds
    lag_seal: Seconds
    lag_store: Seconds
    stored_age: Optional[Seconds] = None
    """Seconds since that state was the machine's, by clocks that are never set; None: unknown."""
    clock_behind: float = Field(default=0, ge=-1e12, le=1e12)
    """Seconds that were added to the machine's own times, because its wall clock differs from ours; 0: they agree."""


class StreamTrouble(Body):
    """The problem of one stream: frames in the spool cannot be stored, a point cannot be read, or it has two senders;
    and what to do."""

    machine: Label
    epoch: Natural
    trouble: Prose


class DifferenceReport(Body):
    """A chunk of the copy differed from the machine's disk at the position ``epoch:sequence``; it was sent again right
    after it. States after the position ``proven_…`` (0: unknown) up to there may be wrong in these bytes."""

    machine: Label
    disk: int = Field(ge=0, lt=65535)
    start: Natural
    length: Natural
    epoch: Natural
    sequence: Natural
    proven_epoch: Natural = 0
    proven_sequence: Natural = 0
    time: Moment
    cause: Prose = ""


class ServerReport(Body):
    """``POST /v1/process-servers/self/report``, about every second; repeated until answered: handle it idempotently."""

    url: Url
    version: Label
    spool_bytes: Natural
    spool_limit: Natural
    spool_trouble: Prose = ""
    store_trouble: Prose = ""
    streams: List[StreamReport] = Field(default=[], max_length=MOST_REPORTED, fail_fast=True)
    points: List[PointReport] = Field(default=[], max_length=MOST_REPORTED, fail_fast=True)
    epochs: List[EpochReport] = Field(default=[], max_length=MOST_REPORTED, fail_fast=True)
    stuck: List[StreamTrouble] = Field(default=[], max_length=MOST_REPORTED, fail_fast=True)
    """Streams with their own problems, though the store works."""
    differences: List[DifferenceReport] = Field(default=[], max_length=MOST_REPORTED, fail_fast=True)
    clock: Optional[ClockStanding] = None
    requests: Dict[RequestName, Natural] = Field(default={}, max_length=16)
    """Number of requests to the store since the server started, by kind: ``put``, ``get``, ``list``, ``delete``."""
    requests_seconds: Seconds = 0
    """How long ago the server started."""
    released: List[StreamName] = Field(default=[], max_length=MOST_REPORTED, fail_fast=True)
    """Of the streams that it was told to release, those that receive nothing more and are completely in the vault."""


class ReportAnswer(Body):
    """The answer to a ServerReport."""

    closed: List[StreamName] = []
    """Of the reported streams, those that may not continue: their epoch is closed, or no longer belongs to their
    sender. Accept nothing more for them; what was received remains valid and must still reach the vault."""
    release: List[StreamName] = []
    """Streams that move to another process server: accept no more of them, store what was received, then list them in
    ``released``."""
    bandwidth: List[Rate] = []
    """How fast the store may be written to, from now on and in the next days; empty: no limit."""
    certificates: Dict[str, List[str]] = {}
    """By machine, of the reported streams: the valid serial numbers, as in a StreamGrant."""
    asked_rpo: Dict[str, float] = {}
    """By machine, of the reported streams: the same."""
    pushes: List[str] = []
    """Ids of pushes that the server must begin or continue. Omitted if there are none."""
    vmware: List[DiscoveryOrder] = []
    """VMware servers that the server must follow, and no others. Omitted if there are none."""


class ServerStanding(enum.Enum):
    """The state of a process server, in a word."""

    INVITED = "invited"
    """It has a token and has not registered yet."""
    WELL = "well"
    SILENT = "silent"
    FULL = "full"
    """Its spool accepts no more."""
    DRAINING = "draining"
    DRAINED = "drained"
    """It has no machine and nothing in its spool: it may be stopped or removed."""


class ProcessServer(Body):
    """A process server as users see it (``GET /v1/process-servers``)."""

    id: str
    name: str = ""
    url: str
    version: str = ""
    standing: ServerStanding = ServerStanding.WELL
    last_seen: Moment = 0
    healthy: bool = False
    spool_bytes: int = 0
    spool_limit: int = 0
    spool_trouble: str = ""
    store_trouble: str = ""
    """The store's last error, with the remedy; empty while it works."""
    store_trouble_since: Moment = 0
    machines: int = 0
    bandwidth: List[str] = []
    time_zone: str = "UTC"
    rate: int = 0
    """Bytes a second that it may store now; 0: no limit."""
    requests: Dict[str, int] = {}
    """Number of requests to the store by kind, since the server started."""
    requests_a_day: Dict[str, float] = {}
    """The same, converted to a day."""
    temporary_for: str = ""
    """The failover beside whose machine it was made; it goes with it. Empty: it stays."""
    keys_of: List[str] = []
    """Only for a single one: the machines whose keys it was ever given, by name, a deleted one by its id."""


class ServerAddition(Body):
    """``POST /v1/process-servers``: invite another process server. ``url`` is the address at which agents will reach
    it, https://host:port; its certificate is made for that host. ``name`` empty: the host."""

    url: str = Field(max_length=300, pattern=r"^https://[!-.0-~]+$")
    name: str = Field(default="", max_length=63, pattern=r"^([A-Za-z0-9][A-Za-z0-9._-]{0,62})?$")
    valid_seconds: int = Field(default=3600, ge=1, le=30 * 86400)


class ServerInvitation(Invitation):
    """The answer: a one-time token, shown once, for ``farshore-process-server enroll`` on the new server's host."""


class ServerEnrolmentRequest(Body):
    """``POST /v1/process-servers/enrolments``: exchange the token for a certificate. ``request`` is a PEM PKCS#10
    request."""

    token: Token
    request: Pem


class ServerEnrolment(Body):
    """The certificate names the server in its URI SAN ``farshore://process-server/<id>``. PEM texts. ``url`` is where
    agents will look for it."""

    process_server: str
    url: str
    certificate: str
    authority: str


class ServerChange(Body):
    """``PATCH /v1/process-servers/{server}``: only given values change."""

    draining: Optional[bool] = None
    bandwidth: Optional[Limits] = None
    """Limits by the time of day, such as ``Mon-Fri 08:00-18:00 20 Mbit/s``; the first that matches applies."""
    time_zone: Optional[Label] = None


class VaultStatus(Body):
    """``GET /v1/vault``. Bytes; ``machines`` maps machine ids to the number of points in the catalog."""

    url: str
    vault: str
    reachable: bool
    trouble: str = ""
    machines: Dict[str, int] = {}


class ServerStatus(Body):
    """``GET /v1/status``: no certificate needed, so it contains nothing that a stranger could use."""

    product: str = "farshore"
    version: str
    authority_fingerprint: str
    api_versions: List[str] = ["v1"]
