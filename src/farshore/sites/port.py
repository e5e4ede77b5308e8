"""What a recovery site promises.

A site says how it takes the disks of its machines (``delivery``); farshore.delivery brings them there, and recovery
hands the site a ``RecoveryOrder`` that says where they are. The site knows nothing of vaults or points.
Everything is keyed by the failover's id, and every method may be repeated after a crash at any moment with the same
outcome: a site finds out what exists by looking at the far side (its hypervisor, its folders), never by remembering.
Abilities that only some sites have are small protocols of their own, asked for with ``isinstance``.
"""

from __future__ import annotations

import enum
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NewType, Protocol, runtime_checkable

from farshore.model.machine import Firmware, MachineDescription
from farshore.model.target import DiskBus, NetworkKind

FailoverId = NewType("FailoverId", str)
"""One recovered machine, from order to destruction: a UUID in canonical text form."""


class Way(enum.Enum):
    """How a recovered machine's disks come to its site."""

    SERVED = "served"
    """Over NBD: the machine starts at once, and reads what it needs from an export of this host."""
    WRITTEN = "written"
    """Whole, before the machine starts: it depends on nothing but the site then."""
    UPLOADED = "uploaded"
    """Whole, before the machine starts, to disks that the site has its provider make (Ingesting)."""


class DiskFormat(enum.Enum):
    """What a written disk is."""

    RAW = "raw"
    """The disk's own bytes, in a sparse file or on a block device of this host."""


@dataclass(frozen=True)
class DeliveryWish:
    """How a site takes disks; ``format``: of written ones. ``address``: the address of this host at which it reads
    served ones, over TLS; empty: at a Unix socket."""

    way: Way = Way.SERVED
    format: DiskFormat = DiskFormat.RAW
    address: str = ""


@dataclass(frozen=True)
class UnixAddress:
    """An NBD server at a Unix socket of this host."""

    path: Path


@dataclass(frozen=True)
class TlsAccess:
    """What a client of an NBD server shows and asks for: ``folder`` holds ``ca-cert.pem``, whom to trust alone, with
    ``client-cert.pem`` and ``client-key.pem``; the server's certificate is for ``name``, wherever it is reached."""

    folder: Path
    name: str


@dataclass(frozen=True)
class TcpAddress:
    """An NBD server at ``host``: a name, an IPv4 or an IPv6 address. ``tls`` None: in the clear."""

    host: str
    port: int
    tls: TlsAccess | None = None


@dataclass(frozen=True)
class ServedDisk:
    """Export ``export`` of an NBD server."""

    address: UnixAddress | TcpAddress
    export: str


@dataclass(frozen=True)
class WrittenDisk:
    """A file or a block device of this host, which the machine writes to. It is not the site's to delete. ``image``:
    it is not raw but a file of this format, as QEMU calls it."""

    path: Path
    image: str = ""


@dataclass(frozen=True)
class UploadedDisk:
    """A disk of the site's provider, by its name there. It is not the site's to delete with the machine."""

    id: str


Medium = ServedDisk | WrittenDisk | UploadedDisk
"""Where a disk is."""


@dataclass(frozen=True)
class AttachedDisk:
    """A disk of the recovered machine; ``size`` in bytes."""

    number: int
    size: int
    medium: Medium
    logical_block_size: int = 512
    serial: str = ""
    boot: bool = False


@dataclass(frozen=True)
class AttachedNetwork:
    """What a network card leads to; ``name``: of the bridge or the network."""

    kind: NetworkKind
    name: str = ""


@dataclass(frozen=True)
class RecoveryOrder:
    """What to build. ``machine`` is what it is to be, which may differ from the source: its processors, memory,
    firmware and cards are those of its target. ``forward`` maps ports of this host (loopback) to ports of the guest."""

    failover: FailoverId
    name: str
    machine: MachineDescription
    disks: tuple[AttachedDisk, ...]
    isolated: bool
    """True: the machine reaches nothing but what connects to it; for tests beside production."""
    forward: Mapping[int, int] = field(default_factory=dict)
    disk_bus: DiskBus = DiskBus.VIRTIO
    networks: Mapping[int, AttachedNetwork] = field(default_factory=dict)
    """By card of ``machine``, from 0; a card that is not named leads nowhere."""
    bubble: str = ""
    """The isolated network of this name that the site makes for its tests, for all cards that ``networks`` does not
    name; empty: they lead nowhere."""
    tags: Mapping[str, str] = field(default_factory=dict)
    """For people, and for the site's own tools where it can show them."""
    home: bool = False
    """The machine belongs here: it keeps the identity of its hardware, and what is left of it here may be used."""


class Condition(enum.Enum):
    """How a recovered machine is, seen from outside."""

    ABSENT = "absent"
    STOPPED = "stopped"
    """It does not run: it was not started, it was stopped, or it died (its process, its host)."""
    SHUT_DOWN = "shut-down"
    """Its guest shut itself down, as somebody in it wanted. It stays so until it is started, stopped or destroyed."""
    RUNNING = "running"
    PAUSED = "paused"
    """Held, by a person or because a disk did not answer; nothing is lost."""


@dataclass(frozen=True)
class RecoveredMachine:
    """``address`` is where it is reached (forwarded ports are on it); ``detail`` says more where something is odd."""

    failover: FailoverId
    condition: Condition
    address: str = ""
    detail: str = ""


class RecoverySite(Protocol):
    """One place to recover to. Methods raise TryLater, Refused or Damaged; safe to call from several threads and
    processes at a time. tests/contract/test_sites.py holds every site to what is said here."""

    @property
    def name(self) -> str:
        """What failover requests call it."""
        ...

    @property
    def delivery(self) -> DeliveryWish:
        """How it takes the disks of its machines: the same as long as the site exists."""
        ...

    def check(self, order: RecoveryOrder) -> None:
        """Raise Refused, with the remedy, where the order can be seen to be impossible. Changes nothing."""
        ...

    def create(self, order: RecoveryOrder) -> None:
        """Define the machine without starting it. Repeating it with the same order changes nothing. An order with the
        same id and other content replaces one that does not run; Refused while that runs or is paused. NoSpace leaves
        the earlier order as it was."""
        ...

    def start(self, failover: FailoverId) -> RecoveredMachine:
        """Start it. Does nothing if it runs or is paused, so there is never a second one; starts it anew if it was
        shut down, stopped or died. Raises NotFound if it was not created."""
        ...

    def status(self, failover: FailoverId) -> RecoveredMachine:
        """How it is. Condition.ABSENT rather than an error if there is none. A machine that died is STOPPED, one whose
        guest shut itself down is SHUT_DOWN, and is it still when its process or its host has ended since."""
        ...

    def stop(self, failover: FailoverId, *, grace: float) -> None:
        """Stop it: ask the guest to shut down, cut it off after ``grace`` seconds (0: at once). It is STOPPED then,
        also where it had shut itself down. Stopped or absent already is fine."""
        ...

    def destroy(self, failover: FailoverId) -> None:
        """Leave nothing of it, running or not, whatever somebody deleted by hand; the disks are not the site's.
        Absent already is fine."""
        ...

    def present(self) -> tuple[FailoverId, ...]:
        """All that exist here, whoever remembers them: what a clean-up must look at."""
        ...


@dataclass(frozen=True)
class NewDisk:
    """A disk to be uploaded to; ``size`` in bytes. ``boot``: the machine starts from it, by ``firmware``."""

    failover: FailoverId
    name: str
    number: int
    size: int
    boot: bool
    firmware: Firmware


@dataclass(frozen=True)
class Reception:
    """``identity``: of the very disk, another one made in its place has another. ``accepted``: the upload has ended."""

    identity: uuid.UUID
    accepted: bool


@runtime_checkable
class Ingesting(Protocol):
    """A site whose machines' disks are uploaded (Way.UPLOADED). Every method may be repeated, as those of the site."""

    def receive(self, disk: NewDisk) -> Reception:
        """Have the disk, made if it is not there, ready to be uploaded to unless it was accepted."""
        ...

    def grant(self, failover: FailoverId, number: int) -> str:
        """An address at which the disk takes pages: a secret that comes to its end. Asked for again, another one."""
        ...

    def accept(self, failover: FailoverId, number: int) -> None:
        """The upload has ended: let the disk be attached."""
        ...

    def uploaded(self, failover: FailoverId, number: int) -> UploadedDisk:
        """Return its name. Changes nothing, and asks nobody."""
        ...

    def has_disk(self, failover: FailoverId, number: int) -> bool:
        """Whether it is there and was accepted."""
        ...

    def discard(self, failover: FailoverId) -> None:
        """Leave none of the failover's disks, accepted or not. Raises TryLater where a machine still has one."""
        ...


@dataclass(frozen=True)
class Hardware:
    """What a guest must have drivers of: ``disks``: the kernel's modules by which it reaches its disks. ``cards``: the
    module of its network cards, whose MAC addresses the provider chooses and whose addresses it gives out by DHCP."""

    disks: tuple[str, ...]
    cards: str


@runtime_checkable
class OwnHardware(Protocol):
    """A site whose machines have hardware of its provider, whatever bus a target names."""

    @property
    def hardware(self) -> Hardware:
        """The same for each machine."""
        ...


@runtime_checkable
class Resumable(Protocol):
    """A site that pauses a machine whose disk does not answer, instead of failing its reads."""

    def resume(self, failover: FailoverId) -> None:
        """Let a paused machine go on."""
        ...


@runtime_checkable
class Answering(Protocol):
    """A site that can tell whether a service in the machine accepts connections, where a plain connection cannot."""

    def answers(self, failover: FailoverId, port: int) -> bool:
        """Whether the guest accepts a connection at host port ``port`` of the order's ``forward``."""
        ...


@runtime_checkable
class Attaching(Protocol):
    """A site that can bring its machines' disks to this host, to be written in place, before it creates them."""

    @property
    def attaches(self) -> bool:
        """Whether it is set up for it."""
        ...

    def attach(self, order: RecoveryOrder) -> Mapping[int, Path]:
        """Have a path on this host for each disk of the order, of its size or larger: of what is left of the machine
        here where the order is ``home``, else of empty disks that are made. The order's media count for nothing.
        Repeating it changes nothing. ``create`` with these paths takes the disks to their machine, ``destroy`` takes
        them away. Raises Refused where what is left may not be used."""
        ...


@runtime_checkable
class Keeping(Protocol):
    """A site whose machines have disks of their own: once ``create`` has returned, what it was given may go."""

    @property
    def keeps_disks(self) -> bool:
        """Whether it is so here."""
        ...


def keeps_disks(site: RecoverySite) -> bool:
    """Whether a machine of this site needs nothing of this host once it is created."""
    return isinstance(site, Keeping) and site.keeps_disks


@runtime_checkable
class Leading(Protocol):
    """A site that can lead connections of this host into a machine whose network leads nowhere."""

    def lead_in(self, failover: FailoverId, port: int) -> int:
        """The port of this host's loopback at which connections reach the guest's ``port``: opened by the first call,
        and as long as the machine runs. 0 where the machine does not run, or its cards lead elsewhere. Raises
        Unreachable."""
        ...


@runtime_checkable
class Identified(Protocol):
    """A site that knows by which hardware id a machine of it will be told from others."""

    def hardware_id(self, failover: FailoverId) -> str:
        """What the machine's firmware shows as its id (SMBIOS's product UUID), in lower case."""
        ...


@runtime_checkable
class Examined(Protocol):
    """A site that can say how it is before anything is ordered of it."""

    def examine(self) -> Mapping[str, str]:
        """What there is, by name, for people. Raises Refused with the remedy, or TryLater, where no machine could be
        brought up here. May take a minute."""
        ...


@dataclass(frozen=True)
class Finding:
    """What was seen of one thing that a site needs. ``missing``: no machine comes up without it; ``remedy``: what to
    do, a command where there is one, also where it is only worth a warning."""

    subject: str
    found: str
    remedy: str = ""
    missing: bool = False


@runtime_checkable
class Inspected(Protocol):
    """A site that can look at each thing that it needs of its provider."""

    def inspect(self) -> Sequence[Finding]:
        """All of them. Raises nothing of what the provider says: that is a finding. May take a minute."""
        ...

    def template(self) -> str:
        """A file that has the provider make what is needed, with the words how in its head."""
        ...


@dataclass(frozen=True)
class Capacity:
    """What a site has for machines, in bytes and numbers; None: it knows of no limit. ``free``: as of now."""

    processors: int | None = None
    memory: int | None = None
    memory_free: int | None = None
    disk_free: int | None = None
    addresses: int | None = None


@runtime_checkable
class Measured(Protocol):
    """A site that knows what it has."""

    def capacity(self) -> Capacity:
        """As of now, within seconds. Raises TryLater, Refused."""
        ...


@runtime_checkable
class HasConsole(Protocol):
    """A site that keeps what the machine says on its serial console."""

    def console(self, failover: FailoverId) -> Path:
        """A text file; it may not exist yet."""
        ...

    def trim_console(self, failover: FailoverId) -> None:
        """Drop the oldest of what it said, where that has become long. Called every few seconds."""
        ...


@runtime_checkable
class HasScreen(Protocol):
    """A site that can show what a machine has on its screen."""

    def screen(self, failover: FailoverId) -> bytes:
        """A PNG image. Raises NotFound where it does not run, Unreachable where it cannot be had."""
        ...
