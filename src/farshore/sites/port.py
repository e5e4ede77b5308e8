"""The contract of a recovery site.

A site says how it takes the disks of its machines (``delivery``). farshore.delivery brings them there, and recovery
passes the site a ``RecoveryOrder`` that says where they are. The site knows nothing of vaults or points. Everything is
keyed by the failover's id. Every method may be repeated after a crash at any moment with the same result: a site finds
out what exists by asking its hypervisor or its folders, never from memory. Abilities that only some sites have are
separate small protocols, tested with ``isinstance``.
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
    """Completely, before the machine starts: from then on it depends only on the site."""
    UPLOADED = "uploaded"
    """Completely, before the machine starts, to disks that the site's provider creates (Ingesting)."""


class DiskFormat(enum.Enum):
    """The format of a written disk."""

    RAW = "raw"
    """The disk's own bytes, in a sparse file or on a block device of this host."""


@dataclass(frozen=True)
class DeliveryWish:
    """How a site takes disks. ``format`` applies to written disks. ``address`` is the address of this host at which the
    site reads served disks, over TLS; if empty, they are at a Unix socket."""

    way: Way = Way.SERVED
    format: DiskFormat = DiskFormat.RAW
    address: str = ""


@dataclass(frozen=True)
class UnixAddress:
    """An NBD server at a Unix socket of this host."""

    path: Path


@dataclass(frozen=True)
class TlsAccess:
    """The credentials of an NBD client: ``folder`` holds ``ca-cert.pem``, the only authority to trust, with
    ``client-cert.pem`` and ``client-key.pem``. The server's certificate is for ``name``, whatever its address."""

    folder: Path
    name: str


@dataclass(frozen=True)
class TcpAddress:
    """An NBD server at ``host``: a name, an IPv4 or an IPv6 address. Without ``tls``, the connection is not
    encrypted."""

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
    """A file or a block device of this host, which the machine writes to. The site must not delete it. ``image`` is the
    file's format, as QEMU calls it; empty: raw."""

    path: Path
    image: str = ""


@dataclass(frozen=True)
class UploadedDisk:
    """A disk of the site's provider, by its name there. The site must not delete it with the machine."""

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
    """The network that a card is connected to; ``name`` is the name of the bridge or the network."""

    kind: NetworkKind
    name: str = ""


@dataclass(frozen=True)
class RecoveryOrder:
    """The machine to build. ``machine`` may differ from the source: its processors, memory, firmware and cards are
    those of its target. ``forward`` maps ports of this host (loopback) to ports of the guest."""

    failover: FailoverId
    name: str
    machine: MachineDescription
    disks: tuple[AttachedDisk, ...]
    isolated: bool
    """True: the machine reaches nothing but what connects to it; for tests beside production."""
    forward: Mapping[int, int] = field(default_factory=dict)
    disk_bus: DiskBus = DiskBus.VIRTIO
    networks: Mapping[int, AttachedNetwork] = field(default_factory=dict)
    """By card of ``machine``, from 0; a card that is not listed is isolated."""
    bubble: str = ""
    """The isolated network that the site creates for its tests, by name. It connects all cards that ``networks`` does
    not list. If empty, those are isolated."""
    tags: Mapping[str, str] = field(default_factory=dict)
    """For people, and for the site's own tools where they can show it."""
    home: bool = False
    """The machine belongs to this site: it keeps the identity of its hardware, and what remains of it here may be
    used."""


class Condition(enum.Enum):
    """State of a recovered machine, seen from outside."""

    ABSENT = "absent"
    STOPPED = "stopped"
    """It does not run: it was never started, it was stopped, or it died (its process, its host)."""
    SHUT_DOWN = "shut-down"
    """Its guest shut itself down, because somebody in it wanted that. It remains so until it is started, stopped or
    destroyed."""
    RUNNING = "running"
    PAUSED = "paused"
    """Paused, by a person or because a disk did not answer; nothing is lost."""


@dataclass(frozen=True)
class RecoveredMachine:
    """``address`` is the machine's address (forwarded ports are on it); ``detail`` describes a problem, if there is
    one."""

    failover: FailoverId
    condition: Condition
    address: str = ""
    detail: str = ""


class RecoverySite(Protocol):
    """One place to recover to. Methods raise TryLater, Refused or Damaged. They are safe to call from several threads
    and processes at a time. tests/contract/test_sites.py tests every site against these promises."""

    @property
    def name(self) -> str:
        """The name in failover requests."""
        ...

    @property
    def delivery(self) -> DeliveryWish:
        """How the site takes the disks of its machines; constant while the site exists."""
        ...

    def check(self, order: RecoveryOrder) -> None:
        """Raise Refused, with a remedy, if the order is clearly impossible. Changes nothing."""
        ...

    def create(self, order: RecoveryOrder) -> None:
        """Define the machine without starting it. Repeating it with the same order changes nothing. An order with the
        same id and other content replaces one that does not run; Refused while that one runs or is paused. On NoSpace
        the earlier order is unchanged."""
        ...

    def start(self, failover: FailoverId) -> RecoveredMachine:
        """Start the machine. Does nothing if it runs or is paused, so there is never a second one. Starts it again if
        it was shut down, stopped or died. Raises NotFound if it was not created."""
        ...

    def status(self, failover: FailoverId) -> RecoveredMachine:
        """Return the machine's state: Condition.ABSENT rather than an error if there is none. A machine that died is
        STOPPED. One whose guest shut itself down is SHUT_DOWN, even after its process or its host has ended."""
        ...

    def stop(self, failover: FailoverId, *, grace: float) -> None:
        """Stop the machine: ask the guest to shut down, and end it after ``grace`` seconds (0: at once). It is STOPPED
        then, even if it had shut itself down. Does nothing if it is stopped or absent."""
        ...

    def destroy(self, failover: FailoverId) -> None:
        """Delete everything of the machine, running or not, even if somebody deleted parts by hand. The disks do not
        belong to the site. Does nothing if it is absent."""
        ...

    def present(self) -> tuple[FailoverId, ...]:
        """Return all machines that exist here, even those that nobody remembers. A clean-up needs them."""
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
    """State of a disk for an upload. ``identity`` changes if the disk is made again. ``accepted``: the upload has
    ended."""

    identity: uuid.UUID
    accepted: bool


@runtime_checkable
class Ingesting(Protocol):
    """A site to which the machines' disks are uploaded (Way.UPLOADED). Every method may be repeated, as those of the
    site."""

    def receive(self, disk: NewDisk) -> Reception:
        """Create the disk if it is missing, and prepare it for an upload unless it was accepted."""
        ...

    def grant(self, failover: FailoverId, number: int) -> str:
        """Return an address to which the disk's pages are written. It is a secret that expires; each call returns a new
        one."""
        ...

    def accept(self, failover: FailoverId, number: int) -> None:
        """End the upload, so that the disk can be attached."""
        ...

    def uploaded(self, failover: FailoverId, number: int) -> UploadedDisk:
        """Return the disk's name. Changes nothing, and sends no request."""
        ...

    def has_disk(self, failover: FailoverId, number: int) -> bool:
        """Return whether the disk exists and was accepted."""
        ...

    def discard(self, failover: FailoverId) -> None:
        """Delete all of the failover's disks, accepted or not. Raises TryLater if a machine still uses one."""
        ...


@dataclass(frozen=True)
class Hardware:
    """Hardware for which a guest needs drivers. ``disks``: the kernel modules for its disks. ``cards``: the module for
    its network cards, whose MAC addresses the provider chooses and whose addresses come by DHCP."""

    disks: tuple[str, ...]
    cards: str


@runtime_checkable
class OwnHardware(Protocol):
    """A site whose machines have the provider's hardware, whatever bus a target names."""

    @property
    def hardware(self) -> Hardware:
        """The same for every machine."""
        ...


@runtime_checkable
class Resumable(Protocol):
    """A site that pauses a machine whose disk does not answer, instead of failing its reads."""

    def resume(self, failover: FailoverId) -> None:
        """Resume a paused machine."""
        ...


@runtime_checkable
class Answering(Protocol):
    """A site that can tell whether a service in the machine accepts connections, if a plain connection cannot show
    it."""

    def answers(self, failover: FailoverId, port: int) -> bool:
        """Return whether the guest accepts a connection at host port ``port`` of the order's ``forward``."""
        ...


@runtime_checkable
class Attaching(Protocol):
    """A site that can attach its machines' disks to this host, to be written in place before it creates the
    machines."""

    @property
    def attaches(self) -> bool:
        """Whether the site is configured for this."""
        ...

    def attach(self, order: RecoveryOrder) -> Mapping[int, Path]:
        """Return a path on this host for each disk of the order, of its size or larger. If the order is ``home``, these
        are the machine's remaining disks here; otherwise empty disks are created. The order's media are ignored.
        Repeating it changes nothing. ``create`` with these paths attaches the disks to their machine, ``destroy``
        removes them. Raises Refused if the remaining disks may not be used."""
        ...


@runtime_checkable
class Keeping(Protocol):
    """A site whose machines have their own disks: once ``create`` has returned, the caller's disks may be deleted."""

    @property
    def keeps_disks(self) -> bool:
        """Whether this site does so."""
        ...


def keeps_disks(site: RecoverySite) -> bool:
    """Return whether a machine of this site needs nothing of this host once it is created."""
    return isinstance(site, Keeping) and site.keeps_disks


@runtime_checkable
class Leading(Protocol):
    """A site that can forward connections of this host into a machine whose network is isolated."""

    def lead_in(self, failover: FailoverId, port: int) -> int:
        """Return the port of this host's loopback that leads to the guest's ``port``. The first call opens it; it
        exists as long as the machine runs. Returns 0 if the machine does not run, or its cards are not isolated. Raises
        Unreachable."""
        ...


@dataclass(frozen=True)
class ServerSoftware:
    """What a process server at a site installs and knows: ``package``, a requirement for pip; ``environment``, by which
    it finds and opens the vault's store. Nothing of it is secret."""

    package: str
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class ServerOrder:
    """A process server that is to be made beside the machine of ``failover``. ``user_data``: what cloud-init carries
    out when it first starts; it holds a one-time token. ``mark``: tells one order from another."""

    failover: FailoverId
    mark: str
    user_data: str = field(repr=False)


@runtime_checkable
class Hosting(Protocol):
    """A site that can make a process server beside a recovered machine, for as long as that is replicated from there.
    Every method may be repeated, as those of the site."""

    @property
    def software(self) -> ServerSoftware | None:
        """None: this one is not to have any."""
        ...

    def room(self, failover: FailoverId) -> str:
        """The address at which the failover's machine will reach its process server: the same from the first call until
        it is dismissed. Raises Refused where that machine's network leads nowhere, NotFound where it was not
        created."""
        ...

    def revive(self, failover: FailoverId) -> str:
        """Start the server that was launched, if it does not run; the mark of its order. Empty: there is none."""
        ...

    def launch(self, order: ServerOrder) -> None:
        """Have the server of this order, and no other of its failover, at the address of ``room``. Raises NotFound
        without that."""
        ...

    def dismiss(self, failover: FailoverId) -> None:
        """Leave nothing of it. Absent already is fine; ``destroy`` does the same."""
        ...

    def server_console(self, failover: FailoverId) -> str:
        """What it said last on its console; empty: nothing is known."""
        ...


@runtime_checkable
class Identified(Protocol):
    """A site that knows the hardware id that distinguishes its machine from others."""

    def hardware_id(self, failover: FailoverId) -> str:
        """Return the id that the machine's firmware shows (SMBIOS's product UUID), in lower case."""
        ...


@runtime_checkable
class Examined(Protocol):
    """A site that can report its state before anything is ordered."""

    def examine(self) -> Mapping[str, str]:
        """Return what the site has, by name, for people. Raises Refused with a remedy, or TryLater, if no machine could
        run here. May take a minute."""
        ...


@dataclass(frozen=True)
class Finding:
    """The state of one thing that a site needs. ``missing``: without it no machine can run; ``remedy``: what to do, as
    a command where possible, also for a mere warning."""

    subject: str
    found: str
    remedy: str = ""
    missing: bool = False


@runtime_checkable
class Inspected(Protocol):
    """A site that can examine each thing that it needs from its provider."""

    def inspect(self) -> Sequence[Finding]:
        """Return all findings. An error of the provider is a finding, never raised. May take a minute."""
        ...

    def template(self) -> str:
        """Return a file with which the provider creates what is needed, with instructions at its top."""
        ...


@dataclass(frozen=True)
class Capacity:
    """What a site has for machines, in bytes and numbers; None: no known limit. ``free``: at this moment."""

    processors: int | None = None
    memory: int | None = None
    memory_free: int | None = None
    disk_free: int | None = None
    addresses: int | None = None


@runtime_checkable
class Measured(Protocol):
    """A site that knows its capacity."""

    def capacity(self) -> Capacity:
        """Return the present capacity, within seconds. Raises TryLater, Refused."""
        ...


@runtime_checkable
class HasConsole(Protocol):
    """A site that keeps the output of a machine's serial console."""

    def console(self, failover: FailoverId) -> Path:
        """Return the console's text file; it may not exist yet."""
        ...

    def trim_console(self, failover: FailoverId) -> None:
        """Drop the oldest output if the console has become long. Called every few seconds."""
        ...


@runtime_checkable
class HasScreen(Protocol):
    """A site that can take a picture of a machine's screen."""

    def screen(self, failover: FailoverId) -> bytes:
        """Return a PNG image. Raises NotFound if the machine does not run, Unreachable if there is no picture."""
        ...
