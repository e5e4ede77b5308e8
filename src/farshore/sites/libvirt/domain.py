"""Describe a recovered machine as libvirt's XML. Pure: order in, document out.

As at the QEMU site, flushes reach the disk, and a disk that does not answer pauses the guest. Isolated cards, and cards
on a test network, are QEMU's own: libvirt cannot describe them, so they are passed as arguments of QEMU's command line.
libvirt cannot describe NBD's reconnecting either: a guest that lost its disk is paused, and continues when somebody
resumes it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from farshore.model.errors import Refused
from farshore.model.machine import Firmware
from farshore.model.target import DiskBus, NetworkKind
from farshore.sites.port import AttachedDisk, RecoveryOrder, ServedDisk, UnixAddress, WrittenDisk
from farshore.sites.user_network import cabled_card, isolated_card

MARK = "urn:farshore:libvirt:1"
"""The XML namespace of our entry in a domain's metadata, which names the failover."""
_QEMU = "http://libvirt.org/schemas/domain/qemu/1.0"
_BUSES = {DiskBus.VIRTIO: "virtio", DiskBus.SATA: "sata", DiskBus.VIRTIO_SCSI: "scsi", DiskBus.PVSCSI: "scsi"}
_PREFIXES = {"virtio": "vd", "sata": "sd", "scsi": "sd"}
_CONTROLLERS = {DiskBus.VIRTIO_SCSI: "virtio-scsi", DiskBus.PVSCSI: "vmpvscsi"}
_FIRST_SLOT, _MOST_CARDS = 0x10, 8
"""Of the cards that are QEMU's own, above the addresses that libvirt uses."""
_MIB = 1 << 20

ElementTree.register_namespace("farshore", MARK)
ElementTree.register_namespace("qemu", _QEMU)


@dataclass(frozen=True)
class Surroundings:
    """What this host offers to a machine. ``firmware`` is the UEFI code image, or None; ``memory`` is in bytes."""

    accelerator: str
    processors: int
    memory: int
    firmware: Path | None
    console: Path
    variables: Path
    cables: Path
    """The folder of the sockets that lead to a test network."""

    def cable(self, number: int) -> Path:
        """Return the socket of a card, by its number."""
        return self.cables / f"cable-{number}"


def check_order(order: RecoveryOrder, around: Surroundings) -> None:
    """Raise Refused for an order that libvirt, or this site, cannot build."""
    machine = order.machine
    if machine.architecture not in ("x86_64", "amd64"):
        raise Refused(
            f"{order.name} is a {machine.architecture} machine.", remedy="Choose a site for this architecture."
        )
    if not order.disks:
        raise Refused(f"{order.name} has no disk to start from.", remedy="Choose a point with its disks.")
    if machine.firmware is not Firmware.BIOS and around.firmware is None:
        raise Refused(
            f"{order.name} boots with UEFI, but this host has no UEFI firmware.",
            remedy="Install the package ovmf (edk2-ovmf) on this host.",
        )
    own = [number for number in range(len(machine.nics)) if number not in order.networks]
    if len(own) > _MOST_CARDS:
        raise Refused(
            f"{order.name} has {len(own)} isolated cards; the limit is {_MOST_CARDS}.",
            remedy="Connect some to a network: farshore machine target set MACHINE --network SPEC",
        )
    if order.forward and (0 not in own):
        raise Refused(
            f"Ports are to be forwarded to {order.name}, but its first card is on a network.",
            remedy="Use the machine's address on that network. Or isolate the card: farshore machine target set",
        )
    for disk in order.disks:
        medium = disk.medium
        if isinstance(medium, ServedDisk) and not isinstance(medium.address, UnixAddress):
            raise Refused(
                f"Disk {disk.number} of {order.name} is served at an address.",
                remedy="A site of kind libvirt reads disks at Unix sockets of this host.",
            )
        if order.disk_bus is DiskBus.SATA and disk.logical_block_size != 512:
            raise Refused(
                f"Disk {disk.number} of {order.name} has sectors of more than 512 bytes, which SATA does not support.",
                remedy="Choose another bus: farshore machine target set MACHINE --disk-bus virtio.",
            )


def document(order: RecoveryOrder, name: str, around: Surroundings) -> str:
    """Return the XML of the domain ``name``."""
    kvm = around.accelerator == "kvm"
    root = ElementTree.Element("domain", type="kvm" if kvm else "qemu")
    _add(root, "name", name)
    _add(root, "uuid", order.failover)
    mark = ElementTree.SubElement(_add(root, "metadata"), f"{{{MARK}}}failover", id=order.failover)
    for tag, value in sorted(order.tags.items()):
        ElementTree.SubElement(mark, f"{{{MARK}}}tag", name=tag).text = value
    memory = max(64, min(order.machine.memory, around.memory) // _MIB)
    _add(root, "memory", str(memory), unit="MiB")
    wanted = max(1, order.machine.processors)
    _add(root, "vcpu", str(wanted if kvm else min(wanted, around.processors)))
    system = _add(root, "os")
    _add(system, "type", "hvm", arch="x86_64", machine="q35")
    if order.machine.firmware is not Firmware.BIOS:
        _add(system, "loader", str(around.firmware), readonly="yes", type="pflash")
        _add(system, "nvram", str(around.variables))
    _add(_add(root, "features"), "acpi")
    if kvm:
        _add(root, "cpu", mode="host-passthrough")
    else:
        _add(_add(root, "cpu", mode="custom", match="exact"), "model", "Westmere")
    _add(root, "clock", offset="utc")
    _add(root, "on_poweroff", "destroy")
    _add(root, "on_crash", "destroy")
    devices = _add(root, "devices")
    if order.disk_bus in _CONTROLLERS:
        _add(devices, "controller", type="scsi", index="0", model=_CONTROLLERS[order.disk_bus])
    for place, disk in enumerate(order.disks):
        _disk(devices, disk, place, order.disk_bus)
    for number, nic in enumerate(order.machine.nics):
        network = order.networks.get(number)
        if network is not None:
            bridge = network.kind is NetworkKind.BRIDGE
            card = _add(devices, "interface", type="bridge" if bridge else "network")
            _add(card, "source", **{"bridge" if bridge else "network": network.name})
            if nic.mac:
                _add(card, "mac", address=nic.mac)
            _add(card, "model", type="virtio")
            _add(card, "rom", enabled="no")
    serial = _add(devices, "serial", type="file")
    _add(serial, "source", path=str(around.console), append="on")
    _add(serial, "target", type="isa-serial", port="0")
    _add(_add(devices, "rng", model="virtio"), "backend", "/dev/urandom", model="random")
    _add(_add(devices, "video"), "model", type="vga")
    _add(devices, "memballoon", model="none")
    _own_cards(root, order, around)
    return ElementTree.tostring(root, encoding="unicode")


def _disk(devices: ElementTree.Element, disk: AttachedDisk, place: int, bus: DiskBus) -> None:
    medium, kind = disk.medium, _BUSES[bus]
    held = {"name": "qemu", "type": "raw", "cache": "writeback", "discard": "unmap", "error_policy": "stop"}
    if isinstance(medium, ServedDisk):
        assert isinstance(medium.address, UnixAddress)
        one = _add(devices, "disk", type="network", device="disk")
        _add(one, "driver", **held, rerror_policy="stop")
        source = _add(one, "source", protocol="nbd", name=medium.export)
        _add(source, "host", transport="unix", socket=str(medium.address.path))
    else:
        assert isinstance(medium, WrittenDisk)
        device = medium.path.is_block_device()
        one = _add(devices, "disk", type="block" if device else "file", device="disk")
        _add(one, "driver", **{**held, "type": medium.image or "raw"}, rerror_policy="stop")
        _add(one, "source", **{"dev" if device else "file": str(medium.path)})
    _add(one, "target", dev=_PREFIXES[kind] + _letters(place), bus=kind)
    if disk.logical_block_size != 512:
        _add(one, "blockio", logical_block_size=str(disk.logical_block_size), physical_block_size="4096")
    if disk.serial:
        _add(one, "serial", disk.serial[:20])
    if disk.boot:
        _add(one, "boot", order="1")


def _own_cards(root: ElementTree.Element, order: RecoveryOrder, around: Surroundings) -> None:
    isolated = [number for number in range(len(order.machine.nics)) if number not in order.networks]
    if not isolated:
        return
    line = ElementTree.SubElement(root, f"{{{_QEMU}}}commandline")
    for slot, number in enumerate(isolated, _FIRST_SLOT):
        place = f",bus=pcie.0,addr=0x{slot:x}"
        nic = order.machine.nics[number]
        words = isolated_card(number, nic, order.forward, place)
        if order.bubble:
            words = cabled_card(number, nic, str(around.cable(number)), place)
        for word in words:
            ElementTree.SubElement(line, f"{{{_QEMU}}}arg", value=word)


def _letters(place: int) -> str:
    """Return a … z, aa …, as the kernel names disks."""
    letters = ""
    place += 1
    while place:
        place, digit = divmod(place - 1, 26)
        letters = chr(ord("a") + digit) + letters
    return letters


def _add(parent: ElementTree.Element, name: str, text: str = "", /, **attributes: str) -> ElementTree.Element:
    made = ElementTree.SubElement(parent, name, attributes)
    if text:
        made.text = text
    return made
