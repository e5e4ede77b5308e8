"""The properties that discovery requests, and their meaning: each value of the SDK is converted to our fields at once.

Each property is independent: it can appear, change and disappear without the others, and the SDK's object is not kept.
None means that the property is unset: its fields get their defaults.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from pyVmomi import vim

from farshore.api_types.vmware import (
    MOST_ADDRESSES,
    MOST_DISKS,
    MOST_NICS,
    DiskBacking,
    PlaceKind,
    VmwareDisk,
    VmwareMachine,
    VmwareNic,
)

Fields = dict[str, Any]
Reader = Callable[[Any], Fields]
_MIB: Final = 1 << 20
_RDM = {"virtualMode": DiskBacking.RDM_VIRTUAL, "physicalMode": DiskBacking.RDM_PHYSICAL}
_DEVICE = vim.vm.device


def _text(name: str) -> Reader:
    return lambda value: {name: "" if value is None else str(value)}


def _flag(name: str) -> Reader:
    return lambda value: {name: bool(value)}


def _number(name: str, unit: int = 1) -> Reader:
    return lambda value: {name: max(0, int(value or 0)) * unit}


def _reference(name: str) -> Reader:
    return lambda value: {name: _id(value)}


def _references(name: str, most: int) -> Reader:
    return lambda value: {name: [_id(one) for one in value or []][:most]}


def _id(reference: Any) -> str:
    return "" if reference is None else str(reference._moId)


def _devices(value: Any) -> Fields:
    """Read ``config.hardware.device``: the disks with their controllers, and the network cards."""
    controllers = {one.key: one for one in value or [] if isinstance(one, _DEVICE.VirtualController)}
    disks = [_disk(one, controllers) for one in value or [] if isinstance(one, _DEVICE.VirtualDisk)]
    nics = [_nic(one) for one in value or [] if isinstance(one, _DEVICE.VirtualEthernetCard)]
    return {"disks": disks[:MOST_DISKS], "nics": nics[:MOST_NICS]}


def _disk(device: Any, controllers: Mapping[int, Any]) -> VmwareDisk:
    backing, controller = device.backing, controllers.get(device.controllerKey)
    size = device.capacityInBytes or (device.capacityInKB or 0) * 1024
    return VmwareDisk(
        key=device.key,
        label=_label(device),
        size=max(0, size),
        backing=_backing(backing),
        file=getattr(backing, "fileName", None) or "",
        datastore=_id(getattr(backing, "datastore", None)),
        uuid=getattr(backing, "uuid", None) or "",
        mode=getattr(backing, "diskMode", None) or "",
        thin=bool(getattr(backing, "thinProvisioned", False)),
        encrypted=getattr(backing, "keyId", None) is not None,
        shared=getattr(backing, "sharing", None) == "sharingMultiWriter",
        controller="" if controller is None else type(controller).__name__.rsplit(".", 1)[-1],
        shared_bus=str(getattr(controller, "sharedBus", None) or ""),
    )


def _backing(backing: Any) -> DiskBacking:
    if isinstance(backing, _DEVICE.VirtualDisk.RawDiskMappingVer1BackingInfo):
        return _RDM.get(str(backing.compatibilityMode), DiskBacking.RDM_PHYSICAL)
    if isinstance(backing, _DEVICE.VirtualDevice.FileBackingInfo):
        return DiskBacking.FILE
    return DiskBacking.OTHER


def _nic(device: Any) -> VmwareNic:
    return VmwareNic(
        key=device.key,
        label=_label(device),
        kind=type(device).__name__.rsplit(".", 1)[-1],
        mac=(device.macAddress or "").lower(),
        network=_network_of(device.backing),
        connected=device.connectable is None or bool(device.connectable.connected),
    )


def _network_of(backing: Any) -> str:
    if isinstance(backing, _DEVICE.VirtualEthernetCard.DistributedVirtualPortBackingInfo):
        return str(backing.port.portgroupKey or "")
    return _id(getattr(backing, "network", None))


def _label(device: Any) -> str:
    return (device.deviceInfo.label if device.deviceInfo is not None else "") or f"device {device.key}"


def _guest_net(value: Any) -> Fields:
    """Read ``guest.net``: every address that the tools report, in their order."""
    found = [str(address) for nic in value or [] for address in nic.ipAddress or []]
    return {"addresses": list(dict.fromkeys(found))[:MOST_ADDRESSES]}


def _snapshots(value: Any) -> Fields:
    waiting, count = list(value.rootSnapshotList or []) if value is not None else [], 0
    while waiting:
        count += 1
        waiting += waiting.pop().childSnapshotList or []
    return {"snapshots": count}


def _encrypted(value: Any) -> Fields:
    return {"encrypted": value is not None}


MACHINE: Final[Mapping[str, Reader]] = {
    "name": _text("name"),
    "parent": _reference("folder"),
    "resourcePool": _reference("pool"),
    "config.uuid": _text("uuid"),
    "config.instanceUuid": _text("instance_uuid"),
    "config.template": _flag("template"),
    "config.firmware": _text("firmware"),
    "config.bootOptions.efiSecureBootEnabled": _flag("secure_boot"),
    "config.guestId": _text("guest_id"),
    "config.guestFullName": _text("guest"),
    "config.version": _text("hardware"),
    "config.files.vmPathName": _text("path"),
    "config.keyId": _encrypted,
    "config.hardware.numCPU": _number("processors"),
    "config.hardware.memoryMB": _number("memory", _MIB),
    "config.hardware.device": _devices,
    "runtime.powerState": _text("power"),
    "runtime.connectionState": _text("state"),
    "runtime.host": _reference("host"),
    "guest.hostName": _text("host_name"),
    "guest.ipAddress": _text("address"),
    "guest.net": _guest_net,
    "guest.guestFullName": _text("guest_found"),
    "guest.toolsRunningStatus": _text("tools"),
    "guest.toolsVersionStatus2": _text("tools_version"),
    "snapshot": _snapshots,
    "datastore": _references("datastores", MOST_DISKS),
    "network": _references("networks", MOST_NICS),
}
"""Of a machine: the meaning of each property."""

_NAMED: Final[Mapping[str, Reader]] = {"name": _text("name"), "parent": _reference("parent")}
PLACES: Final[Mapping[PlaceKind, tuple[Any, Mapping[str, Reader]]]] = {
    PlaceKind.DATACENTER: (vim.Datacenter, _NAMED),
    PlaceKind.FOLDER: (vim.Folder, _NAMED),
    PlaceKind.CLUSTER: (vim.ComputeResource, _NAMED),
    PlaceKind.HOST: (
        vim.HostSystem,
        {
            **_NAMED,
            "runtime.connectionState": lambda value: {"accessible": str(value) == "connected"},
            "runtime.inMaintenanceMode": _flag("maintenance"),
        },
    ),
    PlaceKind.DATASTORE: (
        vim.Datastore,
        {
            **_NAMED,
            "summary.accessible": _flag("accessible"),
            "summary.capacity": _number("capacity"),
            "summary.freeSpace": _number("free"),
        },
    ),
    PlaceKind.NETWORK: (vim.Network, {**_NAMED, "summary.accessible": _flag("accessible")}),
}
"""Of each kind of place: its type in the SDK, which derived types also match, and its properties."""


def kind_of(reference: Any) -> PlaceKind | None:
    """Return the kind of place that an object is; None for a machine, or for a type that we do not request."""
    return next((kind for kind, (sdk_type, _) in PLACES.items() if isinstance(reference, sdk_type)), None)


def is_machine(reference: Any) -> bool:
    """Return whether an object is a virtual machine."""
    return isinstance(reference, vim.VirtualMachine)


def changed(facts: VmwareMachine, fields: Fields) -> VmwareMachine:
    """Return the machine with some fields replaced. It is validated again: texts come from guests, and are cleaned and
    truncated."""
    return VmwareMachine.model_validate({**dict(facts), **fields})
