"""VMware servers, and what discovery knows of the machines there.

``VmwareMachine`` is both what discovery stores of a machine and what the API returns. References to other objects are
ids of the VMware server (``host-12``); ``VmwarePlace`` gives their names.
"""

from __future__ import annotations

import enum
from typing import Annotated, List, Optional

from pydantic import Field, SecretStr

from farshore.api_types.body import Body, Label, Moment, Natural, Shown
from farshore.api_types.body import Secret as SentSecret
from farshore.api_types.commands import CommandFailure
from farshore.api_types.machines import Finding

MOST_DISKS, MOST_NICS, MOST_ADDRESSES = 256, 64, 64
DISCOVERY_PORTION, MOST_KNOWN = 100, 100_000
"""Machines or places in one report, and ids of everything that exists."""
_PASSWORD_LENGTH = 1000
DeviceKey = Annotated[int, Field(ge=-(1 << 31), le=(1 << 31) - 1)]
"""Of a virtual device: an ``xsd:int``."""
ServerName = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$"


class DiskBacking(enum.Enum):
    """The backing of a virtual disk."""

    FILE = "file"
    RDM_VIRTUAL = "rdm-virtual"
    RDM_PHYSICAL = "rdm-physical"
    OTHER = "other"


class VmwareDisk(Body):
    """A virtual disk. ``size`` in bytes; ``mode`` and ``shared_bus`` as the SDK names them."""

    key: DeviceKey
    label: Shown = ""
    size: Natural = 0
    backing: DiskBacking = DiskBacking.FILE
    file: Shown = ""
    datastore: Shown = ""
    uuid: Shown = ""
    mode: Shown = ""
    thin: bool = False
    encrypted: bool = False
    shared: bool = False
    """Several machines may write to it (multi-writer)."""
    controller: Shown = ""
    shared_bus: Shown = ""


class VmwareNic(Body):
    """A virtual network card. ``network``: the id of a network, or of a distributed port group."""

    key: DeviceKey
    label: Shown = ""
    kind: Shown = ""
    mac: Shown = ""
    network: Shown = ""
    connected: bool = True


class VmwareMachine(Body):
    """A virtual machine as its server describes it. ``power``, ``state``, ``tools`` and ``firmware`` are the SDK's
    words; ``memory`` in bytes; ``parents`` are the folder and the resource pool."""

    id: Shown
    name: Shown = ""
    uuid: Shown = ""
    """The system's UUID in its firmware."""
    instance_uuid: Shown = ""
    power: Shown = ""
    state: Shown = ""
    template: bool = False
    firmware: Shown = ""
    secure_boot: bool = False
    guest_id: Shown = ""
    guest: Shown = ""
    """The guest system that the machine was configured for."""
    guest_found: Shown = ""
    """The guest system that the tools report."""
    host_name: Shown = ""
    """The guest's own host name."""
    address: Shown = ""
    """The guest's first address, as the tools report it."""
    addresses: List[Shown] = Field(default=[], max_length=MOST_ADDRESSES)
    tools: Shown = ""
    tools_version: Shown = ""
    hardware: Shown = ""
    processors: Natural = 0
    memory: Natural = 0
    host: Shown = ""
    folder: Shown = ""
    pool: Shown = ""
    path: Shown = ""
    """Its configuration file, ``[datastore] folder/name.vmx``."""
    datastores: List[Shown] = Field(default=[], max_length=MOST_DISKS)
    networks: List[Shown] = Field(default=[], max_length=MOST_NICS)
    disks: List[VmwareDisk] = Field(default=[], max_length=MOST_DISKS)
    nics: List[VmwareNic] = Field(default=[], max_length=MOST_NICS)
    snapshots: Natural = 0
    encrypted: bool = False
    unread: List[Shown] = Field(default=[], max_length=64)
    """What the account may not read of it."""


class PlaceKind(enum.Enum):
    """The kinds of places of a machine."""

    DATACENTER = "datacenter"
    FOLDER = "folder"
    CLUSTER = "cluster"
    HOST = "host"
    DATASTORE = "datastore"
    NETWORK = "network"


class VmwarePlace(Body):
    """A host, a datastore, a network, a folder … ``capacity`` and ``free`` in bytes, of datastores."""

    id: Shown
    kind: PlaceKind
    name: Shown = ""
    parent: Shown = ""
    accessible: bool = True
    """Whether a host is connected, a datastore or network reachable."""
    maintenance: bool = False
    capacity: Natural = 0
    free: Natural = 0


class VmwareState(enum.Enum):
    """The state of discovery at a VMware server."""

    CONNECTING = "connecting"
    FOLLOWING = "following"
    FAILING = "failing"


class VmwareAddress(Body):
    """``POST /v1/vmware-certificates``: the server whose certificate to fetch."""

    host: Label = Field(min_length=1)
    port: int = Field(default=443, ge=1, le=65535)


class VmwareCertificate(Body):
    """The certificate that a VMware server shows: its SHA-256 fingerprint, ``AB:CD:…``."""

    fingerprint: str
    subject: str = ""
    expires: Moment = 0


class VmwareServerRequest(VmwareAddress):
    """``POST /v1/vmware``: a vCenter, or an ESXi host. The password is sealed and never returned. ``fingerprint`` pins
    the server's certificate."""

    name: str = Field(max_length=63, pattern=ServerName)
    user: Label = Field(min_length=1)
    password: SentSecret = Field(default=SecretStr(""), max_length=_PASSWORD_LENGTH)
    fingerprint: Label = Field(min_length=1)
    through: Label = ""
    """The process server (name or id) that follows it, at its site; empty: this server does. The follower tests the
    login."""


class VmwareServer(Body):
    """A VMware server and the state of discovery there. ``seen``: when it last answered."""

    name: str
    host: str
    port: int
    user: str
    fingerprint: str
    created: Moment = 0
    through: str = ""
    """The name of the process server that follows it; empty: this server does."""
    product: str = ""
    state: VmwareState = VmwareState.CONNECTING
    since: Moment = 0
    seen: Moment = 0
    trouble: str = ""
    remedy: str = ""
    machines: int = 0


class DiscoveredMachine(Body):
    """A machine at a VMware server, with the names of its places. ``protected_as``: the name of our machine on this
    hardware, empty for none."""

    server: str
    facts: VmwareMachine
    host: str = ""
    folder: str = ""
    datastores: List[str] = []
    networks: List[str] = []
    protected_as: str = ""
    reachable: List[str] = []
    """Addresses at which it may be reachable, the most likely first."""
    changed: Moment = 0
    findings: List[Finding] = []


class DiscoveredSummary(Body):
    """A line of the list of machines."""

    server: str
    id: str
    name: str
    power: str
    guest: str = ""
    address: str = ""
    tools: str = ""
    disks: int = 0
    size: Natural = 0
    template: bool = False
    protected_as: str = ""


class DiscoveryOrder(Body):
    """In the answer to a process server's report: a VMware server that it must follow. ``mark`` changes when the
    address or the login changes."""

    name: str
    mark: str


class DiscoveryClaim(Body):
    """``POST /v1/process-servers/self/vmware/{name}/login``. ``key``: 32 bytes of an X25519 public key in hex, made for
    this one answer."""

    key: str = Field(pattern="^[0-9a-f]{64}$", max_length=64)


class SealedDiscovery(Body):
    """The answer: address and login, sealed to the key of the claim, in hex. Held in memory only and never logged."""

    sealed: str


class DiscoveryReport(Body):
    """``POST /v1/process-servers/self/vmware/{name}``. ``product``: set once the login worked. ``answered``: the VMware
    server answered, and ``machines``, ``places`` and ``gone`` contain the changes, if any. ``known``: the ids of
    everything that exists, sent after a full report. ``failure``: why it does not work now."""

    mark: Label
    product: Shown = ""
    answered: bool = False
    machines: List[VmwareMachine] = Field(default=[], max_length=DISCOVERY_PORTION)
    places: List[VmwarePlace] = Field(default=[], max_length=DISCOVERY_PORTION)
    gone: List[Shown] = Field(default=[], max_length=DISCOVERY_PORTION)
    known: Optional[List[Shown]] = Field(default=None, max_length=MOST_KNOWN)
    failure: Optional[CommandFailure] = None


class DiscoveryStanding(Body):
    """The answer. ``wanted`` False: the server was removed, or its login changed; end it."""

    wanted: bool
