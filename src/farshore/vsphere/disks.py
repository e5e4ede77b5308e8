"""Use virtual disks of one machine on another one: hot-add them to the machine that this program runs in, write them
there, and remove them again with their files kept.

VMware allows several machines to have one file as their disk, and a running machine to open it. The machine that owns
the disk must therefore be off, and remain off.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from pyVmomi import vim

from farshore.model.errors import NotFound, Refused
from farshore.vsphere.building import added, disk_device, free_unit, removed
from farshore.vsphere.power import machine_there
from farshore.vsphere.reading import read
from farshore.vsphere.recovered import Seen, look_at, with_uuid
from farshore.vsphere.session import Session
from farshore.vsphere.tasks import finished

_SECONDS = 600.0
_DISK = vim.vm.device.VirtualDisk
_KEPT = ("persistent", "independent_persistent")


@dataclass(frozen=True)
class VirtualDisk:
    """``size`` in bytes; ``uuid`` as the guest of a machine with disk.EnableUUID sees it: hexadecimal digits."""

    key: int
    file: str
    size: int
    uuid: str
    plain: bool
    """An ordinary virtual disk file, which another machine can also attach."""


def disks_of(session: Session, machine: str) -> list[VirtualDisk]:
    """Return a machine's disks, in the order of their controllers and units. Raises NotFound, and as ``translated``."""
    with machine_there(session, machine) as found:
        return [_told(one) for one in _devices(session, found)]


def find_proxy(session: Session, wanted: str) -> str:
    """Return the id of the machine that this program runs in, by its UUID or its name. Raises NotFound, Refused."""
    found = with_uuid(session, wanted) if re.fullmatch(r"[0-9A-Fa-f-]{36}", wanted) else _named(session, wanted)
    if found is None:
        raise NotFound(
            f"There is no machine {wanted!r} at {session.host}.",
            remedy="Name the machine that this server runs in, by its UUID: cat /sys/class/dmi/id/product_uuid",
        )
    if found.power != "poweredOn":
        raise Refused(
            f"The machine {found.name} at {session.host} is off, so this server does not run in it.",
            remedy="Name the machine that this server runs in, by its UUID: cat /sys/class/dmi/id/product_uuid",
        )
    return found.id


def _named(session: Session, name: str) -> Seen | None:
    view = session.content.viewManager.CreateContainerView(session.content.rootFolder, [vim.VirtualMachine], True)
    try:
        there = [one for one in view.view if one.name == name]
    finally:
        view.Destroy()
    return look_at(session, there[0]._moId) if len(there) == 1 else None


def add_blank(session: Session, machine: str, name: str, size: int) -> VirtualDisk:
    """Add an empty thin disk to a machine, in a file of this name in the machine's own folder. Raises Refused if the
    machine has no free unit."""
    with machine_there(session, machine) as found:
        file = f"{str(found.config.files.vmPathName).rpartition('/')[0]}/{name}"
        controller, unit = _free(found)
        change = added(disk_device(file, size, controller, unit, -250), make=True)
        finished(session, found.ReconfigVM_Task(vim.vm.ConfigSpec(deviceChange=[change])), _SECONDS)
        return next(_told(one) for one in _devices(session, found) if one.backing.fileName == file)


def delete(session: Session, machine: str, files: Collection[str]) -> None:
    """Remove disks from a machine that is off, and delete their files. Missing disks are ignored."""
    _take_off(session, machine, files, delete=True)


def attach(session: Session, proxy: str, disks: Iterable[VirtualDisk]) -> None:
    """Attach disks to the machine that this program runs in, whatever else they are attached to. Disks that are already
    attached are ignored."""
    with machine_there(session, proxy) as found:
        for disk in disks:
            there = {one.backing.fileName for one in _devices(session, found)}
            if disk.file in there:
                continue
            controller, unit = _free(found)
            # Independent, so a snapshot of this machine does not include it.
            device = disk_device(disk.file, disk.size, controller, unit, -260, mode="independent_persistent")
            finished(session, found.ReconfigVM_Task(vim.vm.ConfigSpec(deviceChange=[added(device)])), _SECONDS)


def detach(session: Session, proxy: str, files: Collection[str]) -> None:
    """Remove disks from the machine that this program runs in; their files remain. Disks that are not attached are
    ignored."""
    _take_off(session, proxy, files, delete=False)


def _take_off(session: Session, machine: str, files: Collection[str], *, delete: bool) -> None:
    with machine_there(session, machine) as found:
        gone = [one for one in _devices(session, found) if one.backing.fileName in files]
        if gone:
            changes = [removed(one, delete=delete) for one in gone]
            finished(session, found.ReconfigVM_Task(vim.vm.ConfigSpec(deviceChange=changes)), _SECONDS)


def _devices(session: Session, found: Any) -> Sequence[Any]:
    devices = read(session, found, ["config.hardware.device"]).get("config.hardware.device", [])
    order = {one.key: place for place, one in enumerate(devices)}
    disks = [one for one in devices if isinstance(one, _DISK)]
    return sorted(disks, key=lambda one: (order.get(one.controllerKey, 0), one.unitNumber or 0))


def _free(found: Any) -> tuple[int, int]:
    place = free_unit(found.config.hardware.device)
    if place is None:
        raise Refused(
            f"{found.name} has no free unit for another disk on its SCSI controllers.",
            remedy="Add a SCSI controller (VMware Paravirtual) to it.",
        )
    return place


def _told(device: Any) -> VirtualDisk:
    backing = device.backing
    return VirtualDisk(
        key=int(device.key),
        file=str(getattr(backing, "fileName", None) or ""),
        size=int(device.capacityInBytes or (device.capacityInKB or 0) * 1024),
        uuid=re.sub(r"[^0-9a-f]", "", str(getattr(backing, "uuid", None) or "").lower()),
        plain=isinstance(backing, _DISK.FlatVer2BackingInfo) and backing.diskMode in _KEPT,
    )
