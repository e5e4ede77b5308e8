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
"""Limit of what an agent reports; it omits the rest."""
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
    """``POST /v1/enrolments``: exchange a one-time token for a certificate. ``request`` is a PEM PKCS#10 request."""

    token: Secret
    request: Pem
    description: Description


class Enrolment(Body):
    """The certificate names the machine in its URI SAN ``farshore://machine/<id>``. PEM texts."""

    machine: str
    certificate: str
    authority: str
    release_key: str = ""
    """At enrolment: the public half of the key that signs the agent's releases, in hex, to be pinned. Not returned with
    a renewal, because the machine already has one."""


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
    """From the dirty bitmap: only the missed blocks are copied."""


class EpochRequest(Body):
    """``POST /v1/machines/self/epochs``. ``run`` is a random id of this run of the agent; a new run fences the old."""

    run: Label
    kind: EpochKind
    description: Description
    parent_epoch: Natural = 0
    parent_sequence: Natural = 0
    """For HEAL: the epoch that the bitmap continues, and its last acknowledged sequence. The server grants a HEAL only
    on top of a consistent epoch of the same machine; otherwise it returns RESYNC or INITIAL."""


class EpochGrant(Body):
    """Permission to send one epoch. ``hash_key`` is the chunk hash key of the machine's deduplication domain, 32 bytes
    in hex."""

    epoch: int
    kind: EpochKind
    """The server may grant INITIAL for a RESYNC or a HEAL if the vault holds no complete epoch in the machine's
    deduplication domain, or RESYNC for a HEAL."""
    parent_epoch: int = 0
    """0: none."""
    parent_sequence: int = 0
    process_server: str
    """Base URL, https://host:port."""
    hash_key: str


class FormerCommand(Body):
    """A command for agents that do not fetch their commands themselves (release cd79197 and before)."""

    id: str
    kind: CommandKind
    point_kind: str = "crash-consistent"
    name: str = ""
    release: str = ""
    digest: str = ""
    whole: bool = False


class FormerResult(Body):
    """The answer of such an agent; ``error`` is empty on success."""

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
    """Negative while the base of the kernel's count is not known."""
    verdict: Shown
    commands: Natural = 0
    """Number of commands sent straight to the disk, past the capture, that may have changed it. Each causes a
    comparison."""


class Progress(Body):
    """A copy in progress. Bytes; ``remaining_seconds`` is an estimate, 0 when unknown."""

    total: Natural = 0
    done: Natural = 0
    sent: Natural = 0
    remaining_seconds: Seconds = 0


class DiskProof(Body):
    """How much of a disk is proven equal to its copy, in chunks of 64 KiB. Times: ns since 1970 UTC, 0: none yet."""

    disk: int = Field(ge=0, lt=65535)
    chunks: Natural
    proven: Natural
    """Proven since they were copied, or were last in doubt."""
    lately: Natural
    """Of these, within the last 7 days."""
    doubtful: Natural
    """Copied outside of the stream's order since, or differing: proven first."""
    oldest: Moment
    newest: Moment
    first_epoch: Natural = 0
    first_sequence: Natural = 0
    """The lowest position of a proof; 0: there is none."""


class ProofRun(Body):
    """A requested proof in progress. Bytes."""

    total: Natural
    done: Natural


class ProofStanding(Body):
    """The state of the proofs that the copy equals the machine's disks."""

    disks: List[DiskProof] = Field(default=[], max_length=MOST_DISKS, fail_fast=True)
    differences: Natural = 0
    """Chunks that were ever found to differ."""
    differing: Natural = 0
    """Of these, those that are not proven equal again: the machine is not protected."""
    excused: Natural = 0
    """Chunks that differed for a reason that is not a fault of the copy, and were sent again."""
    unjudged: Natural = 0
    """Chunks that differed when their epoch ended, and were equal in a later one: it is unknown whether there was a
    fault."""
    compared: Natural = 0
    """Number of chunks compared since the agent started; below, the bytes and requests from the vault for that."""
    vault_bytes: Natural = 0
    vault_requests: Natural = 0
    cpu_seconds: float = Field(default=0, ge=0, le=1e12, allow_inf_nan=False)
    """Processor time that proofs took of the machine since the agent started; below, of the process server."""
    server_cpu_seconds: float = Field(default=0, ge=0, le=1e12, allow_inf_nan=False)
    pace: Natural = 0
    """Bytes a second that are read for proofs when nothing is in doubt."""
    paused: Prose = ""
    """Why nothing is proven now."""
    weaker: Prose = ""
    """What a proof means here, if it means less than that all bytes are equal."""
    run: Optional[ProofRun] = None


class CheckSeverity(enum.Enum):
    """How much a finding matters."""

    OK = "ok"
    WARNING = "warning"
    ERROR = "error"


class Finding(Body):
    """One line of ``GET /v1/machines/{machine}/check``: the subject, its state, and what to do about it."""

    subject: Shown
    severity: CheckSeverity
    message: Prose
    remedy: Prose = ""


Stage = Annotated[str, Field(max_length=16, pattern="^[a-z]*$")]


class Heartbeat(Body):
    """``POST /v1/machines/self/heartbeat``: the agent's report. Times are ns since 1970 UTC."""

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
    """Without data mode: seconds between two points at present, which is the RPO. 0: a stream, any second."""
    captured_sequence: Natural = 0
    acknowledged_sequence: Natural = 0
    acknowledged_time: Moment = 0
    """Time of the newest acknowledged record."""
    spilled_bytes: Natural = 0
    lag: Dict[Stage, Seconds] = Field(default={}, max_length=16)
    """Seconds that the oldest record has waited at each of the agent's stages: ``capture`` (in the ring), ``spill`` (in
    the .hrl file), ``network`` (in memory, or on its way)."""
    accounts: List[DiskAccount] = Field(default=[], max_length=MOST_DISKS, fail_fast=True)
    progress: Optional[Progress] = None
    warnings: List[Prose] = Field(default=[], max_length=1000, fail_fast=True)
    findings: Optional[List[Finding]] = Field(default=None, max_length=2000, fail_fast=True)
    """The findings of the agent's last checks; None: nothing new since its last report."""
    clock: Optional[ClockStanding] = None
    """Of the machine's wall clock; None: the agent does not watch it (it is of an older release)."""
    proof: Optional[ProofStanding] = None
    """None: the agent proves nothing (it is of an older release)."""
    hears_commands: bool = False
    """It receives its commands over a stream (farshore.api_types.commands). False: an agent of an earlier release,
    which takes them from the answer and puts its ``results`` here."""
    results: List[FormerResult] = Field(default=[], max_length=256, fail_fast=True)


class Desired(Body):
    """The answer to a heartbeat: the desired state. ``protect`` False with ``standby`` True: another site runs this
    machine now, so capture nothing and send nothing."""

    protect: bool
    standby: bool = False
    process_server: str = ""
    crash_consistent_every: int = 5
    app_consistent_every: int = 0
    asked_rpo: float = DEFAULT_RPO
    """Maximum age of the newest stored state of a busy machine, in seconds, as its policy asks: batches are cut by
    it."""
    exclude_disks: List[int] = []
    bandwidth_limit: int = 0
    """Bytes a second, 0: none."""
    bandwidth: List[Rate] = []
    """The same by the time of day, from now on and for the next days; the lower of the two applies."""
    cpu_share: float = 0.10
    """The share of the machine's processors to which the agent limits itself, by pacing its copies, while other
    programs need them. A heal may take four times as much; the stream itself is never slowed down."""
    proof_pace: int = 2_000_000
    """Bytes a second that the agent reads to prove that the copy is equal; 0: only for requested proofs."""
    memory_limit: int = 256 << 20
    """The agent's memory limit; a quarter of it is for the capture ring unless another size was set."""
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
    """The position (EPOCH:SEQUENCE) at which the machine's present line begins, as chosen by the last failover that was
    made final; empty: it was never failed over. Later data of those epochs belongs to former lines, and is kept."""
    policy: str
    description: Description
    epoch: int = 0
    mode: Optional[CaptureMode] = None
    mode_cause: str = ""
    mode_since: Moment = 0
    points_every: float = 0
    """Without data mode: seconds between two points at present, which is the RPO. 0: a stream, any second."""
    last_seen: Moment = 0
    rpo_seconds: Optional[float] = None
    """Age of the newest durable point; None while there is none."""
    lag: Dict[str, float] = {}
    """Seconds by stage: capture, spill, network, spool, seal, store. A stage whose program is silent is missing."""
    agent: str = ""
    """The release of its mobility service, or the version where it was not installed as a release."""
    upgrade: str = ""
    """The release that this server has for it, if that is another one: farshore machine upgrade."""
    process_server: str = ""
    """The name of the process server that it sends to."""
    moving_to: str = ""
    """The name of the process server that takes over when everything is stored; empty: the machine stays."""
    progress: Optional[Progress] = None
    accounts: List[DiskAccount] = []
    proof: Optional[ProofStanding] = None
    """None: its agent proves nothing."""
    warnings: List[str] = []
    readiness: Readiness = Readiness()
    """Whether a failover would work now."""


class MachineSummary(Body):
    """A line of a list of machines: values that are fast to read for thousands. The names are Machine's."""

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
    """Enrol this machine (id or name) again: it keeps its id and points, and its old certificates are no longer
    accepted."""


class Token(Body):
    """A one-time enrolment token, shown once. ``authority_fingerprint`` pins the CA at first contact."""

    token: str
    authority_fingerprint: str
    expires: Moment
    server_url: str = ""
    """Where machines reach the configuration server."""


class TokenView(Body):
    """A token in a list: never its secret. ``used`` is 0 until a machine, ``machine``, enrolled with it."""

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
    answered with an Enrolment. The old certificate remains valid until it expires."""

    request: Pem


PASSWORD_LENGTH = 1000


class PushAccountRequest(Body):
    """``POST /v1/push-accounts``: a login for many machines by SSH. Either a key or a password, which is sealed and
    never returned."""

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
    """A login to a machine by SSH.

    ``private_key`` (OpenSSH or PEM) is sealed at rest and deleted when the job ends. ``host_key_fingerprint``
    (``SHA256:…``) pins the host's key; if it is empty, the key of first contact is trusted and pinned."""

    host: Host
    port: int = Field(default=22, ge=1, le=65535)
    user: Label = "root"
    private_key: Pem = ""
    password: SentSecret = Field(default=SecretStr(""), max_length=PASSWORD_LENGTH)
    """Instead of a key; sealed and deleted like one."""
    account: Label = ""
    """Log in with this push account, instead of user, key or password."""
    jump: Label = ""
    """[USER@]HOST[:PORT] of a host in between, with the same key or password."""
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
    """The address at which the machine reaches this server; empty: the first advertised address."""
    disks: List[Label] = Field(default=[], max_length=MOST_DISKS, fail_fast=True)
    """Device paths to protect; empty: every whole disk."""
    through: Label = ""
    """The process server (name or id) that logs in; empty: this server, or, if it cannot reach the host, the machine's
    process server."""
    vmware: Optional[VmwareGuest] = None
    """Install by guest operations of this VMware server, not over SSH: ``user`` and ``password`` are the guest's."""


class Uninstallation(Body):
    """``POST /v1/machines/{machine}/uninstall``: remove the agent and delete the machine. Answered with a Job.
    ``login``: by SSH, if the agent does not remove itself."""

    login: Optional[SshLogin] = None


class ProofRequest(Body):
    """``POST /v1/machines/{machine}/proof``: compare its disks with the copy now. ``whole``: every chunk; otherwise
    those in doubt, never proven, or not proven for long. Answered with a Job."""

    whole: bool = False


class ProtectionRequest(Body):
    """``PUT /v1/machines/{machine}/protection``. None leaves a value unchanged."""

    policy: Optional[Label] = None
    exclude_disks: Optional[List[DiskIndex]] = Field(default=None, max_length=MOST_DISKS, fail_fast=True)
    exclude_boot_disk: bool = False
    """The boot disk may be among them: then no recovered machine can start."""
    bandwidth_limit: Optional[Natural] = None
    """Bytes a second, 0: none."""
    cpu_percent: Optional[int] = Field(default=None, ge=1, le=100)
    """Share of the machine's processors for the agent's copies while other programs need them."""
    memory_limit: Optional[int] = Field(default=None, ge=128 << 20, le=1 << 36)
    """The agent's memory limit in bytes, a quarter for its ring; used from its next start on."""
    proof_pace: Optional[Natural] = None
    """Bytes a second that the agent reads to prove that the copy is equal; 0: only for requested proofs."""
    process_server: Optional[Label] = None
    """Send to this process server (name or id) while it is healthy; empty: to the one with the fewest machines."""
