"""Build the QEMU command line of a recovered machine. Pure: order in, argument list out.

Choices that matter for the data: a guest's flush goes through virtio-blk and the NBD driver to the fdatasync of the
overlay, or to that of the written file. A disk that does not answer, or has no space, pauses the guest instead of
failing its reads (``rerror``/``werror``), and QEMU reconnects to an export that was restarted.

Choices that protect this host: the machine's network is isolated (``sites/user_network.py``). QEMU itself runs without
rights (``confinement``), so it gets descriptors instead of files.

The machine's DMI UUID is the failover's id, not the source's. An agent that starts in the recovered machine can
therefore be distinguished from the agent of the source.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from farshore.model.errors import Refused
from farshore.model.machine import Firmware
from farshore.model.target import DiskBus
from farshore.sites.port import AttachedDisk, RecoveryOrder, ServedDisk, UnixAddress, WrittenDisk
from farshore.sites.qemu.accelerator import QEMU
from farshore.sites.user_network import bubble_card, isolated_card, literal

RECONNECT_SECONDS = 300
"""Time that QEMU waits for an export to return before it reports an error (which pauses the guest)."""
_MIB = 1 << 20
_CONSOLE, _VARIABLES, _DISKS = 1, 2, 10
"""Numbers of descriptor sets; those of written disks begin at the last one."""
_SECTOR = 512
_SATA_PORTS = 6
"""Ports of one AHCI controller; the machine always has one."""
_SCSI_CONTROLLERS = {DiskBus.VIRTIO_SCSI: "virtio-scsi-pci", DiskBus.PVSCSI: "pvscsi"}
_SCSI_DISKS = {DiskBus.VIRTIO_SCSI: 256, DiskBus.PVSCSI: 64}


@dataclass(frozen=True)
class RunFiles:
    """The files of one machine at this site. Paths of sockets must be shorter than 108 bytes."""

    folder: Path

    @property
    def order(self) -> Path:
        return self.folder / "order.json"

    @property
    def pid(self) -> Path:
        """The record of the last run. Its own process writes it before QEMU begins; its path is in the command line
        (``add-fd``'s opaque)."""
        return self.folder / "qemu.pid"

    @property
    def lock(self) -> Path:
        """Locked by the process while it lives, otherwise by the call that changes the machine."""
        return self.folder / "qemu.lock"

    @property
    def log(self) -> Path:
        """QEMU's own error output since its last start."""
        return self.folder / "qemu.log"

    @property
    def monitor(self) -> Path:
        return self.folder / "qmp.sock"

    @property
    def console(self) -> Path:
        return self.folder / "console.log"

    @property
    def variables(self) -> Path:
        return self.folder / "uefi-variables.fd"


@dataclass(frozen=True)
class Host:
    """What this host offers. ``firmware`` is the UEFI code image, None if there is none; ``memory`` is in bytes."""

    accelerator: str
    processors: int
    firmware: Path | None
    memory: int = 1 << 40


@dataclass(frozen=True)
class LentDisk:
    """The descriptor of a written disk. ``device``: it is a block device, not a file."""

    descriptor: int
    device: bool = False


@dataclass(frozen=True)
class Lent:
    """What QEMU inherits: the descriptors of the listening monitor, the console's file, the UEFI variables and the
    written disks. For each served disk, a path for its socket or for the folder with its credentials."""

    monitor: int
    console: int
    variables: int
    sockets: Mapping[Path, str]
    disks: Mapping[Path, LentDisk] = field(default_factory=dict)
    credentials: Mapping[Path, str] = field(default_factory=dict)
    cards: Mapping[int, int] = field(default_factory=dict)
    """For a machine on a test network, by card: the descriptor of its cable."""


NOTHING_LENT = Lent(-1, -1, -1, {})
"""A placeholder, for checking whether a command can be built at all."""


def qemu_command(order: RecoveryOrder, files: RunFiles, host: Host, lent: Lent) -> list[str]:
    """Return the arguments that start ``order``. Raises Refused for a machine that this host cannot run."""
    machine = order.machine
    if machine.architecture not in ("x86_64", "amd64"):
        raise Refused(
            f"{order.name} is a {machine.architecture} machine.", remedy="Choose a site for this architecture."
        )
    if len(str(files.monitor)) > 107:
        raise Refused(f"{files.folder} is too long a path.", remedy="Give the site a folder with a shorter path.")
    command = [QEMU, "-name", f"{literal(order.name)},debug-threads=on", "-uuid", order.failover]
    command += ["-smbios", f"type=1,manufacturer=Farshore,product=Recovered machine,serial=farshore-{order.failover}"]
    command += ["-nodefaults", "-no-user-config", "-display", "none", "-vga", "std"]
    # A guest that shuts itself down leaves its QEMU running, which reports that; a QEMU that is gone has died. A reboot
    # reboots.
    command += ["-no-shutdown"]
    flash = ",pflash0=firmware,pflash1=variables" if has_variables(order) else ""
    command += ["-machine", f"q35,vmport=off{flash}", *_processor(machine.processors, host)]
    # The order has the source's memory, and a site is often smaller: give it at most what this host has.
    command += ["-m", str(max(64, min(machine.memory, host.memory) // _MIB)), "-rtc", "base=utc"]
    command += _firmware(order, host, lent)
    command += ["-chardev", f"socket,id=monitor,server=on,wait=off,fd={lent.monitor}"]
    command += ["-mon", "chardev=monitor,mode=control"]
    command += ["-add-fd", f"fd={lent.console},set={_CONSOLE},opaque={literal(files.pid)}"]
    command += ["-chardev", f"file,id=console,append=on,path=/dev/fdset/{_CONSOLE}", "-serial", "chardev:console"]
    command += ["-device", "virtio-rng-pci"]
    command += _controllers(order)
    for place, disk in enumerate(order.disks):
        command += _disk(disk, place, order.disk_bus, lent)
    for number, network in order.networks.items():
        raise Refused(
            f"Card {number + 1} of {order.name} is to be on {network.kind.value} {network.name}.",
            remedy="A site of kind qemu has isolated networks only: farshore machine target set MACHINE --network "
            "isolated, or choose a site of another kind.",
        )
    for number, nic in enumerate(machine.nics):
        if order.bubble:
            command += bubble_card(number, nic, lent.cards.get(number, -1))
        else:
            command += isolated_card(number, nic, order.forward)
    return command


def _processor(wanted: int, host: Host) -> list[str]:
    if host.accelerator == "kvm":
        return ["-accel", "kvm", "-cpu", "host", "-smp", str(max(1, wanted))]
    # More emulated processors than real ones only wait for each other. Westmere has what today's distributions require
    # (x86-64-v2) and AES. QEMU's "max" takes twice as long to boot, because of instructions that are slow to emulate.
    count = max(1, min(wanted, host.processors))
    return ["-accel", "tcg,thread=multi,tb-size=512", "-cpu", "Westmere", "-smp", str(count)]


def has_variables(order: RecoveryOrder) -> bool:
    """Return whether the machine keeps UEFI variables."""
    return order.machine.firmware is not Firmware.BIOS


def _firmware(order: RecoveryOrder, host: Host, lent: Lent) -> list[str]:
    if not has_variables(order):
        return []
    if host.firmware is None:
        raise Refused(
            f"{order.name} boots with UEFI, but this host has no UEFI firmware.",
            remedy="Install the package ovmf (edk2-ovmf) on this host.",
        )
    # Not by -drive: that first opens the variables for reading, and there is only one descriptor for both.
    code = f"file.driver=file,file.filename={literal(host.firmware)}"
    return [
        *("-blockdev", f"driver=raw,node-name=firmware,read-only=on,{code}"),
        *("-add-fd", f"fd={lent.variables},set={_VARIABLES}"),
        *("-blockdev", f"driver=raw,node-name=variables,file.driver=file,file.filename=/dev/fdset/{_VARIABLES}"),
    ]


def _controllers(order: RecoveryOrder) -> list[str]:
    """Return the controllers that the disks need beside the machine's own. Raises Refused for a bus that cannot take
    the disks."""
    bus, number = order.disk_bus, len(order.disks)
    if bus is DiskBus.SATA:
        odd = [disk.number for disk in order.disks if disk.logical_block_size != _SECTOR]
        if odd:
            raise Refused(
                f"Disk {odd[0]} of {order.name} has sectors of more than {_SECTOR} bytes, which SATA does not support.",
                remedy="Choose another bus: farshore machine target set MACHINE --disk-bus virtio.",
            )
        more = range(1, -(-number // _SATA_PORTS))
        return [word for each in more for word in ("-device", f"ich9-ahci,id=ahci{each}")]
    if bus not in _SCSI_CONTROLLERS:
        return []
    if number > _SCSI_DISKS[bus]:
        raise Refused(
            f"{order.name} has {number} disks; {bus.value} takes {_SCSI_DISKS[bus]}.",
            remedy="Choose another bus: farshore machine target set MACHINE --disk-bus virtio.",
        )
    return ["-device", f"{_SCSI_CONTROLLERS[bus]},id=scsi"]


def _model(bus: DiskBus, place: int) -> str:
    """Return the device of the disk at ``place`` of its machine, and the bus that it is attached to."""
    if bus is DiskBus.SATA:
        controller, port = divmod(place, _SATA_PORTS)
        return f"ide-hd,bus={f'ahci{controller}' if controller else 'ide'}.{port}"
    if bus is DiskBus.VIRTIO_SCSI:
        return f"scsi-hd,bus=scsi.0,lun={place}"
    return f"scsi-hd,bus=scsi.0,scsi-id={place}" if bus is DiskBus.PVSCSI else "virtio-blk-pci"


def _disk(disk: AttachedDisk, place: int, bus: DiskBus, lent: Lent) -> list[str]:
    name = f"disk{disk.number}"
    device = f"{_model(bus, place)},drive={name},write-cache=on,rerror=stop,werror=stop"
    device += f",logical_block_size={disk.logical_block_size}"
    device += f",physical_block_size={_SECTOR if bus is DiskBus.SATA else 4096}"
    if disk.serial:
        device += f",serial={literal(disk.serial[:20])}"
    if disk.boot:
        device += ",bootindex=1"
    return [*_medium(disk, name, lent), "-device", device]


def _medium(disk: AttachedDisk, name: str, lent: Lent) -> list[str]:
    """Return the block node ``name``, and the node below it."""
    medium = disk.medium
    if isinstance(medium, ServedDisk):
        node = f"driver=nbd,node-name={name},export={literal(medium.export)}"
        address, access = medium.address, list[str]()
        if isinstance(address, UnixAddress):
            path = lent.sockets.get(address.path, str(address.path))
            node += f",server.type=unix,server.path={literal(path)}"
        else:
            node += f",server.type=inet,server.host={literal(address.host)},server.port={address.port}"
            if address.tls is not None:
                folder = lent.credentials.get(address.tls.folder, str(address.tls.folder))
                node += f",tls-creds=tls-{name},tls-hostname={literal(address.tls.name)}"
                shown = f"tls-creds-x509,id=tls-{name},endpoint=client,verify-peer=on,dir={literal(folder)}"
                access = ["-object", shown]
        return [*access, "-blockdev", f"{node},discard=unmap,reconnect-delay={RECONNECT_SECONDS}"]
    assert isinstance(medium, WrittenDisk)
    held, number = lent.disks.get(medium.path, LentDisk(-1)), _DISKS + disk.number
    driver = "host_device" if held.device else "file"
    file = f"file.driver={driver},file.filename=/dev/fdset/{number},file.discard=unmap"
    return [
        *("-add-fd", f"fd={held.descriptor},set={number}"),
        *("-blockdev", f"driver={medium.image or 'raw'},node-name={name},discard=unmap,{file}"),
    ]
