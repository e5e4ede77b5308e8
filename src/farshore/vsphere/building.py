"""Describe a new machine with the SDK's types. Pure.

Disks are attached to pvscsi and cards are vmxnet3, which VMware recommends for Linux and guest preparation supports.
The guest's type is derived from the operating system that the agent reported; an unknown one becomes Linux.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from pyVmomi import vim

_DEVICE = vim.vm.device
_SPEC = _DEVICE.VirtualDeviceSpec
_SCSI_KEY = 1000
_FIRST_DISK, _FIRST_CARD = -200, -400
_UNITS = [unit for unit in range(16) if unit != 7]
"""Units of a SCSI controller; it uses unit 7 itself."""
_CONTROLLERS = 4
MOST_DISKS = _CONTROLLERS * len(_UNITS)
MOST_CARDS = 10
_GUESTS = (
    (r"debian.*\b(1[0-9])\b", "debian10_64Guest"),
    (r"debian", "debian8_64Guest"),
    (r"ubuntu", "ubuntu64Guest"),
    (r"(red hat|rhel|alma|rocky|oracle|centos).*\b([89]|10)\b", "rhel8_64Guest"),
    (r"(red hat|rhel|alma|rocky|oracle|centos)", "rhel7_64Guest"),
    (r"suse|sles", "sles12_64Guest"),
)
_OTHER = "other3xLinux64Guest"


@dataclass(frozen=True)
class NewCard:
    """``network`` is the SDK's object. ``connected``: the card is connected when the machine starts."""

    mac: str
    network: Any
    connected: bool


@dataclass(frozen=True)
class NewMachine:
    """``memory`` in bytes; ``disks``: their sizes in bytes; ``options``: of its configuration, set when it is
    created."""

    name: str
    uuid: str
    instance_uuid: str
    processors: int
    memory: int
    efi: bool
    system: str
    datastore: str
    disks: Sequence[int]
    cards: Sequence[NewCard]
    notes: str
    options: dict[str, str]


def machine_spec(wanted: NewMachine) -> Any:
    """Return the ConfigSpec of a machine with empty, thin disks in its own folder."""
    return vim.vm.ConfigSpec(
        name=wanted.name,
        uuid=wanted.uuid,
        instanceUuid=wanted.instance_uuid,
        numCPUs=wanted.processors,
        memoryMB=-(-wanted.memory // (4 << 20)) * 4,  # vSphere needs a multiple of 4 MiB
        firmware="efi" if wanted.efi else "bios",
        guestId=guest_id(wanted.system),
        annotation=wanted.notes,
        files=vim.vm.FileInfo(vmPathName=f"[{wanted.datastore}]"),
        extraConfig=[vim.option.OptionValue(key=key, value=value) for key, value in wanted.options.items()],
        deviceChange=[
            *_controllers(len(wanted.disks)),
            *(_disk(number, size, wanted.datastore) for number, size in enumerate(wanted.disks)),
            *(_card(number, card) for number, card in enumerate(wanted.cards)),
        ],
    )


def guest_id(system: str) -> str:
    """Return VMware's identifier for a guest system, one that version 6.5 knows."""
    return next((word for sign, word in _GUESTS if re.search(sign, system, re.IGNORECASE)), _OTHER)


def mac_type(mac: str) -> str:
    """Return the type that the MAC address must be declared as: a server refuses one of VMware's own addresses under
    another type."""
    octets = [int(part, 16) for part in mac.split(":")]
    if octets[:3] == [0x00, 0x50, 0x56] and octets[3] > 0x3F:
        return "assigned"  # assigned by a vCenter
    return "generated" if octets[:3] == [0x00, 0x0C, 0x29] else "manual"


def free_unit(devices: Iterable[Any]) -> tuple[int, int] | None:
    """Return a SCSI controller's key and a free unit of it; None if all are used."""
    found = list(devices)
    for controller in found:
        if not isinstance(controller, _DEVICE.VirtualSCSIController):
            continue
        taken = {one.unitNumber for one in found if one.controllerKey == controller.key}
        unit = next((unit for unit in _UNITS if unit not in taken), None)
        if unit is not None:
            return controller.key, unit
    return None


def added(device: Any, *, make: bool = False) -> Any:
    """Return the change that adds a device; with ``make``, it creates a new file."""
    spec = _SPEC(operation=_SPEC.Operation.add, device=device)
    if make:
        spec.fileOperation = _SPEC.FileOperation.create
    return spec


def removed(device: Any, *, delete: bool = False) -> Any:
    """Return the change that removes a device; with ``delete``, it deletes the file too."""
    spec = _SPEC(operation=_SPEC.Operation.remove, device=device)
    if delete:
        spec.fileOperation = _SPEC.FileOperation.destroy
    return spec


def disk_device(file: str, size: int, controller: int, unit: int, key: int, *, mode: str = "persistent") -> Any:
    """Return a disk of ``size`` bytes in this file."""
    backing = _DEVICE.VirtualDisk.FlatVer2BackingInfo(fileName=file, diskMode=mode, thinProvisioned=True)
    return _DEVICE.VirtualDisk(
        key=key, controllerKey=controller, unitNumber=unit, capacityInKB=-(-size // 1024), backing=backing
    )


def _controllers(disks: int) -> list[Any]:
    count = max(1, -(-disks // len(_UNITS)))
    return [
        added(_DEVICE.ParaVirtualSCSIController(key=_SCSI_KEY + bus, busNumber=bus, sharedBus="noSharing"))
        for bus in range(count)
    ]


def _disk(number: int, size: int, datastore: str) -> Any:
    bus, place = divmod(number, len(_UNITS))
    device = disk_device(f"[{datastore}]", size, _SCSI_KEY + bus, _UNITS[place], _FIRST_DISK - number)
    return added(device, make=True)


def _card(number: int, card: NewCard) -> Any:
    connect = _DEVICE.VirtualDevice.ConnectInfo(startConnected=card.connected, connected=False, allowGuestControl=True)
    device = _DEVICE.VirtualVmxnet3(
        key=_FIRST_CARD - number, backing=network_backing(card.network), connectable=connect
    )
    if card.mac:
        device.addressType, device.macAddress = mac_type(card.mac), card.mac
    return added(device)


def network_backing(network: Any) -> Any:
    """Return what a card is attached to: a port group of a distributed switch, or a network of the hosts."""
    card = _DEVICE.VirtualEthernetCard
    if isinstance(network, vim.dvs.DistributedVirtualPortgroup):
        switch = network.config.distributedVirtualSwitch
        port = vim.dvs.PortConnection(portgroupKey=network.key, switchUuid=switch.uuid)
        return card.DistributedVirtualPortBackingInfo(port=port)
    return card.NetworkBackingInfo(deviceName=network.name, network=network)
