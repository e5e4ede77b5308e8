"""Enrolment, heartbeats and views of protected machines."""

from __future__ import annotations

import enum
from typing import Annotated, Dict, List, Optional

from pydantic import Field, SecretStr

from farshore.api_types.bandwidth import Rate
from farshore.api_types.body import LABEL_LENGTH, LARGEST, Body, Label, Moment, Natural, Pem, Prose, Seconds, Shown, Url
from farshore.api_types.body import Secret as SentSecret
from farshore.api_types.body import Token as Secret
from farshore.api_types.clocks import ClockStanding
from farshore.api_types.targets import Readiness
from farshore.model.boot_entry import MOST_BYTES, MOST_ENTRIES
from farshore.model.cadence import DEFAULT_RPO
from farshore.model.commands import CommandKind
from farshore.model.machine import Firmware
from farshore.model.states import CaptureMode, MachineState

MOST_DISKS, MOST_NICS, MOST_ADDRESSES = 256, 128, 64
MOST_WARNINGS, MOST_FINDINGS = 50, 500
"""What an agent tells of; it leaves the rest out."""
Host = Annotated[str, Field(min_length=1, max_length=LABEL_LENGTH, pattern=r"^[^\x00-\x20\x7f-\xa0]*$")]
"""A name or address of a machine."""
BootEntry = Annotated[str, Field(max_length=2 * MOST_BYTES, pattern=r"^([0-9a-f]{2})*$")]
"""In hex."""
DiskIndex = Annotated[int, Field(ge=0, lt=65535)]


class Disk(Body):
    """farshore.model.machine.DiskDescription."""

    number: int = Field(ge=0, lt=65535)
    name: Shown
    size: Natural
    logical_block_size: int = Field(default=512, ge=512, le=1 << 20)
    serial: Shown = ""
    boot: bool = False
    excluded: bool = False


class Nic(Body):
    """farshore.model.machine.NicDescription."""

    name: Shown
    mac: Shown
    addresses: List[Shown] = Field(default=[], max_length=MOST_ADDRESSES, fail_fast=True)


class Description(Body):
    """farshore.model.machine.MachineDescription."""

    hostname: Label
    firmware: Firmware
    processors: int = Field(ge=0, le=1 << 20)
    memory: Natural
    operating_system: Shown
    kernel: Shown
    architecture: Shown
    hardware_id: Shown = ""
    disks: List[Disk] = Field(default=[], max_length=MOST_DISKS, fail_fast=True)
    nics: List[Nic] = Field(default=[], max_length=MOST_NICS, fail_fast=True)
    boot_entries: List[BootEntry] = Field(default=[], max_length=MOST_ENTRIES, fail_fast=True)


class EnrolmentRequest(Body):
    """``POST /v1/enrolments``: a one-time token buys a certificate. ``request`` is a PEM PKCS#10 request."""

    token: Secret
    request: Pem
    description: Description


class Enrolment(Body):
    """The certificate names the machine in its URI SAN ``farshore://machine/<id>``. PEM texts."""

    machine: str
    certificate: str
    authority: str
    release_key: str = ""
    """At enrolment: the public half of the key that signs the agent's releases, in hex, to be pinned. Not given with a
    renewal: whoever renews has one."""


class ReleaseSignature(Body):
    """``GET /v1/machines/self/bundles/{release}/signature``: docs/formats/release-signature.md."""

    release: str
    digest: str
    signature: str


class Authority(Body):
    """``GET /v1/authority``, open to all: the PEM certificate whose SHA-256 fingerprint came with the token."""

    certificate: str


class EpochKind(enum.Enum):
    """Why an epoch begins."""

    INITIAL = "initial"
    RESYNC = "resync"
    HEAL = "heal"
    """From the dirty bitmap: only the blocks that were missed are copied."""


class EpochRequest(Body):
    """``POST /v1/machines/self/epochs``. ``run`` is a random id of this run of the agent; a new run fences the old."""

    run: Label
    kind: EpochKind
    description: Description
    parent_epoch: Natural = 0
    parent_sequence: Natural = 0
    """For HEAL: the epoch that the bitmap continues, and its last acknowledged sequence. The server grants a HEAL only
    on top of a consistent epoch of the same machine; else it answers RESYNC or INITIAL."""


class EpochGrant(Body):
    """Leave to send one epoch. ``hash_key`` is the chunk hash key of the machine's deduplication domain, 32 bytes in
    hex."""

    epoch: int
    kind: EpochKind
    """The server may answer INITIAL to a RESYNC or a HEAL where the vault holds no complete epoch in the machine's
    deduplication domain, or RESYNC to a HEAL."""
    parent_epoch: int = 0
    """0: none."""
    parent_sequence: int = 0
    process_server: str
    """Base URL, https://host:port."""
    hash_key: str


class FormerCommand(Body):
    """A command as agents know it that do not fetch their commands themselves (release cd79197 and before)."""

    id: str
    kind: CommandKind
    point_kind: str = "crash-consistent"
    name: str = ""
    release: str = ""
    digest: str = ""
    whole: bool = False


class FormerResult(Body):
    """What such an agent answers; ``error`` is empty on success."""

    id: Label
    error: Prose = ""
    epoch: Natural = 0
    sequence: Natural = 0
    time: Moment = 0
    proven: Natural = 0
    differing: Natural = 0
    busy: Natural = 0


class DiskAccount(Body):
    """Bytes since capture began: the probe's, the capture's, and the kernel's own count."""

    disk: int = Field(ge=0, lt=65535)
    seen: Natural
    captured: Natural
    bitmap: Natural
    excluded: Natural
    kernel: int = Field(ge=-LARGEST, le=LARGEST)
    """Negative while the base of the kernel's count is not settled."""
    verdict: Shown
    commands: Natural = 0
    """How many were sent straight to the disk, past the capture, that may have changed it. Each has it compared."""


class Progress(Body):
    """A copy under way. Bytes; ``remaining_seconds`` is an estimate, 0 when unknown."""

    total: Natural = 0
    done: Natural = 0
    sent: Natural = 0
    remaining_seconds: Seconds = 0


class DiskProof(Body):
    """How much of a disk is proven equal to its copy, in chunks of 64 KiB. Times: ns since 1970 UTC, 0: none yet."""

    disk: int = Field(ge=0, lt=65535)
    chunks: Natural
    proven: Natural
    """Since they were copied, or the copy was last in doubt."""
    lately: Natural
    """Of these, within the last 7 days."""
    doubtful: Natural
    """Copied outside of the stream's order since, or differing: to be proven first."""
    oldest: Moment
    newest: Moment
    first_epoch: Natural = 0
    first_sequence: Natural = 0
    """The lowest position of a proof; 0: there is none."""


class ProofRun(Body):
    """A proof that somebody asked for, under way. Bytes."""

    total: Natural
    done: Natural


class ProofStanding(Body):
    """The proof that the copy equals the machine's disks."""

    disks: List[DiskProof] = Field(default=[], max_length=MOST_DISKS, fail_fast=True)
    differences: Natural = 0
    """Chunks that were ever found to differ."""
    differing: Natural = 0
    """Of these, those that are not proven equal again: the machine is not protected."""
    excused: Natural = 0
    """Chunks that differed for a reason that is no fault of the copy, and were sent again."""
    unjudged: Natural = 0
    """Chunks that differed when their epoch ended, and were equal in a later one: whether by a fault is not known."""
    compared: Natural = 0
    """Number of chunks compared since the agent started; below, the bytes and requests this took from the vault."""
    vault_bytes: Natural = 0
    vault_requests: Natural = 0
    cpu_seconds: float = Field(default=0, ge=0, le=1e12, allow_inf_nan=False)
    """Processor time that proofs took of the machine since the agent started; below, of the process server."""
    server_cpu_seconds: float = Field(default=0, ge=0, le=1e12, allow_inf_nan=False)
    pace: Natural = 0
    """Bytes a second that are read for it when nothing is in doubt."""
    paused: Prose = ""
    """Why nothing is proven just now."""
    weaker: Prose = ""
    """What a proof says here, where it says less than that all bytes are equal."""
    run: Optional[ProofRun] = None


class CheckSeverity(enum.Enum):
    """How much a finding matters."""

    OK = "ok"
    WARNING = "warning"
    ERROR = "error"


class Finding(Body):
    """One line of ``GET /v1/machines/{machine}/check``: what was looked at, how it stands, what to do about it."""

    subject: Shown
    severity: CheckSeverity
    message: Prose
    remedy: Prose = ""


Stage = Annotated[str, Field(max_length=16, pattern="^[a-z]*$")]


class Heartbeat(Body):
    """``POST /v1/machines/self/heartbeat``: what the agent sees. Times are ns since 1970 UTC."""

    run: Label
    version: Label
    release: Label = ""
    """The release that runs; empty: it was not installed as one, and cannot replace itself."""
    python: Label = ""
    """The Python that it runs on, "3.11"."""
    epoch: Natural = 0
    kind: Optional[EpochKind] = None
    consistent: bool = False
    mode: Optional[CaptureMode] = None
    mode_cause: Prose = ""
    mode_since: Moment = 0
    points_every: Seconds = 0
    """Without data mode: seconds between two points as things are, which is the RPO. 0: a stream, any second."""
    captured_sequence: Natural = 0
    acknowledged_sequence: Natural = 0
    acknowledged_time: Moment = 0
    """Time of the newest acknowledged record."""
    spilled_bytes: Natural = 0
    lag: Dict[Stage, Seconds] = Field(default={}, max_length=16)
    """For how many seconds the oldest record has waited at each of the agent's stages: ``capture`` (in the ring),
    ``spill`` (in the .hrl file), ``network`` (in memory, or on its way)."""
    accounts: List[DiskAccount] = Field(default=[], max_length=MOST_DISKS, fail_fast=True)
    progress: Optional[Progress] = None
    warnings: List[Prose] = Field(default=[], max_length=1000, fail_fast=True)
    findings: Optional[List[Finding]] = Field(default=None, max_length=2000, fail_fast=True)
    """What the agent found when it looked around last; None: nothing new since it told."""
    clock: Optional[ClockStanding] = None
    """Of the machine's wall clock; None: the agent does not look (it is of an older release)."""
    proof: Optional[ProofStanding] = None
    """None: the agent proves nothing (it is of an older release)."""
    hears_commands: bool = False
    """It hears of its commands over a stream (farshore.api_types.commands). False: an agent of an earlier release,
    which takes them with the answer and puts its ``results`` here."""
    results: List[FormerResult] = Field(default=[], max_length=256, fail_fast=True)


class Desired(Body):
    """The answer to a heartbeat: what should be. ``protect`` False with ``standby`` True: another site runs this
    machine now, so capture nothing and send nothing."""

    protect: bool
    standby: bool = False
    process_server: str = ""
    crash_consistent_every: int = 5
    app_consistent_every: int = 0
    asked_rpo: float = DEFAULT_RPO
    """Seconds that the newest stored state of a busy machine may be old, as its policy asks: batches are cut by it."""
    exclude_disks: List[int] = []
    bandwidth_limit: int = 0
    """Bytes a second, 0: none."""
    bandwidth: List[Rate] = []
    """The same by the time of day, from now on and for the days to come; the lower of the two holds."""
    cpu_share: float = 0.10
    """Share of the machine's processors that the agent keeps to, by pacing its copies, while other programs want them.
    A heal may take four times as much; the stream itself is never held back."""
    proof_pace: int = 2_000_000
    """Bytes a second that the agent reads to prove that the copy is equal; 0: only what somebody asks for."""
    memory_limit: int = 256 << 20
    """Bytes that the agent keeps to, a quarter of them for the capture ring unless it was given another size."""
    commands: List[FormerCommand] = []
    """For an agent that does not fetch them."""
    heartbeat_every: float = 2.0


class Machine(Body):
    """A protected machine as users see it."""

    id: str
    name: str
    state: MachineState
    site: str = ""
    """The recovery site that runs it; empty: the place where it was enrolled."""
    line: str = ""
    """The position (EPOCH:SEQUENCE) from which the present line of its life grows, as the last failover that was made
    final chose it; empty: it was never failed over. What its epochs have after that is of former lines, and stays."""
    policy: str
    description: Description
    epoch: int = 0
    mode: Optional[CaptureMode] = None
    mode_cause: str = ""
    mode_since: Moment = 0
    points_every: float = 0
    """Without data mode: seconds between two points as things are, which is the RPO. 0: a stream, any second."""
    last_seen: Moment = 0
    rpo_seconds: Optional[float] = None
    """Age of the newest durable point; None while there is none."""
    lag: Dict[str, float] = {}
    """Seconds by stage: capture, spill, network, spool, seal, store. A stage of which nothing is known now is missing:
    the agent, or the process server, is silent."""
    agent: str = ""
    """The release of its mobility service, or the version where it was not installed as a release."""
    upgrade: str = ""
    """The release that this server has for it, where that is another one: farshore machine upgrade."""
    process_server: str = ""
    """The name of the process server that it sends to."""
    moving_to: str = ""
    """The name of the one that takes it over as soon as everything is stored; empty: it stays."""
    progress: Optional[Progress] = None
    accounts: List[DiskAccount] = []
    proof: Optional[ProofStanding] = None
    """None: its agent proves nothing."""
    warnings: List[str] = []
    readiness: Readiness = Readiness()
    """Whether a failover would work now."""


class MachineSummary(Body):
    """A line of a list of machines: what is quick to tell of thousands. The names are Machine's."""

    id: str
    name: str
    state: MachineState
    policy: str
    mode: Optional[CaptureMode] = None
    last_seen: Moment = 0
    rpo_seconds: Optional[float] = None
    lag: Dict[str, float] = {}
    progress: Optional[Progress] = None
    process_server: str = ""


class TokenRequest(Body):
    """``POST /v1/enrolment-tokens``."""

    name: Label = ""
    valid_seconds: int = Field(default=3600, ge=1, le=30 * 86400)
    policy: Label = "default"
    protect: bool = True
    """Protect the machine as soon as it has enrolled."""
    machine: Label = ""
    """Enrol this machine (id or name) once more: it keeps its id and points, its old certificates open nothing then."""


class Token(Body):
    """A one-time enrolment token, shown once. ``authority_fingerprint`` pins the CA at first contact."""

    token: str
    authority_fingerprint: str
    expires: Moment
    server_url: str = ""
    """Where machines reach the configuration server."""


class TokenView(Body):
    """A token as it is listed: never its secret. ``used`` is 0 until a machine, ``machine``, enrolled with it."""

    id: str
    name: str
    created: Moment
    expires: Moment
    used: Moment = 0
    machine: str = ""
    process_server: str = ""
    """The process server that it is for; empty: it is for a machine."""


class RenewalRequest(Body):
    """``POST /v1/machines/self/certificate`` and ``/v1/process-servers/self/certificate``: a PEM PKCS#10 request,
    answered with an Enrolment. The old certificate stays good until it expires."""

    request: Pem


PASSWORD_LENGTH = 1000


class PushAccountRequest(Body):
    """``POST /v1/push-accounts``: how to log in to machines by SSH, for many of them. Either a key or a password, which
    is sealed and never answered."""

    name: str = Field(max_length=63, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")
    user: Label = "root"
    private_key: Pem = ""
    password: SentSecret = Field(default=SecretStr(""), max_length=PASSWORD_LENGTH)
    jump: Label = ""


class PushAccount(Body):
    """A push account; ``by`` says whether it has a key or a password."""

    name: str
    user: str
    by: str
    jump: str = ""
    created: Moment = 0


class SshLogin(Body):
    """How to log in to a machine by SSH.

    ``private_key`` (OpenSSH or PEM) is sealed at rest and forgotten when the job ends. ``host_key_fingerprint``
    (``SHA256:…``) pins the host's key; empty trusts the key of first contact, and keeps to it afterwards."""

    host: Host
    port: int = Field(default=22, ge=1, le=65535)
    user: Label = "root"
    private_key: Pem = ""
    password: SentSecret = Field(default=SecretStr(""), max_length=PASSWORD_LENGTH)
    """Instead of a key; sealed and forgotten like one."""
    account: Label = ""
    """Log in as this push account says, instead of by user, key or password."""
    jump: Label = ""
    """[USER@]HOST[:PORT] of a host in between, which the same key or password opens."""
    host_key_fingerprint: Label = ""


class VmwareGuest(Body):
    """A machine that discovery found: its VMware server, and its id there."""

    server: Label = Field(min_length=1)
    machine: Label = Field(min_length=1)


class MachineAddition(SshLogin):
    """``POST /v1/machines``: install the mobility service over SSH, enrol, protect. Answered with a Job."""

    name: Label = ""
    policy: Label = "default"
    protect: bool = True
    server_url: Url = ""
    """Where the machine reaches this server; empty: the first advertised address."""
    disks: List[Label] = Field(default=[], max_length=MOST_DISKS, fail_fast=True)
    """Device paths to protect; empty: every whole disk."""
    through: Label = ""
    """The process server (name or id) that logs in; empty: this server, or, where it does not reach the host, the
    machine's process server."""
    vmware: Optional[VmwareGuest] = None
    """Install by guest operations of this VMware server, not over SSH: ``user`` and ``password`` are the guest's."""


class Uninstallation(Body):
    """``POST /v1/machines/{machine}/uninstall``: take the agent off and forget the machine. Answered with a Job.
    ``login``: by SSH, where the agent does not do so itself."""

    login: Optional[SshLogin] = None


class ProofRequest(Body):
    """``POST /v1/machines/{machine}/proof``: compare its disks with the copy now. ``whole``: every chunk; else what is
    in doubt, was never proven, or not for long. Answered with a Job."""

    whole: bool = False


class ProtectionRequest(Body):
    """``PUT /v1/machines/{machine}/protection``. None leaves a value as it is."""

    policy: Optional[Label] = None
    exclude_disks: Optional[List[DiskIndex]] = Field(default=None, max_length=MOST_DISKS, fail_fast=True)
    exclude_boot_disk: bool = False
    """The disk that the machine starts from may be among them: no recovered machine can start then."""
    bandwidth_limit: Optional[Natural] = None
    """Bytes a second, 0: none."""
    cpu_percent: Optional[int] = Field(default=None, ge=1, le=100)
    """Of the machine's processors: what the agent's copies keep to where other programs want them."""
    memory_limit: Optional[int] = Field(default=None, ge=128 << 20, le=1 << 36)
    """Bytes that the agent keeps to, a quarter for its ring; taken up at its next start."""
    proof_pace: Optional[Natural] = None
    """Bytes a second that the agent reads to prove that the copy is equal; 0: only what somebody asks for."""
    process_server: Optional[Label] = None
    """Send to this process server (name or id) while it is well; empty: to whichever has the fewest machines."""
