"""Answers of a VMware server, made of the real SDK's types."""

from __future__ import annotations

from typing import Any

from pyVmomi import vim, vmodl
from pyVmomi.VmomiSupport import CreateArrayType

QUERY = vmodl.query.PropertyCollector
DEVICE = vim.vm.device


def update(obj: Any, kind: str = "enter", missing: tuple[str, ...] = (), **values: Any) -> Any:
    """An ObjectUpdate; ``__`` in a name stands for a dot."""
    changes = [
        QUERY.Change(name=name.replace("__", "."), op="assign", val=_typed(value)) for name, value in values.items()
    ]
    fault = vmodl.fault.SecurityError()
    unread = [QUERY.MissingProperty(path=path, fault=fault) for path in missing]
    return QUERY.ObjectUpdate(kind=kind, obj=obj, changeSet=changes, missingSet=unread)


def _typed(value: Any) -> Any:
    """Lists have a type of their own in the SDK, that of their items' base."""
    if not isinstance(value, list):
        return value
    item = DEVICE.VirtualDevice if isinstance(value[0], DEVICE.VirtualDevice) else type(value[0])
    return CreateArrayType(item)(value)


def update_set(*updates: Any, version: str = "1", truncated: bool = False) -> Any:
    portion = QUERY.FilterUpdate(filter=QUERY.Filter("filter-1"), objectSet=list(updates))
    return QUERY.UpdateSet(version=version, filterSet=[portion], truncated=truncated)


def machine(number: int = 1) -> Any:
    return vim.VirtualMachine(f"vm-{number}")


def disk(key: int = 2000, backing: Any = None, controller: int = 1000, **values: Any) -> Any:
    backing = backing or DEVICE.VirtualDisk.FlatVer2BackingInfo(
        fileName="[ds] web1/web1.vmdk", diskMode="persistent", datastore=vim.Datastore("datastore-1"), uuid="6000C29a"
    )
    return DEVICE.VirtualDisk(
        key=key,
        controllerKey=controller,
        capacityInBytes=8 << 30,
        backing=backing,
        deviceInfo=vim.Description(label="Hard disk 1", summary=""),
        **values,
    )


def controller(sharing: str = "noSharing") -> Any:
    return DEVICE.ParaVirtualSCSIController(key=1000, busNumber=0, sharedBus=sharing)
