"""What becomes of a server's answers, which are made here of the real SDK's types: no server is asked."""

from __future__ import annotations

from typing import Any

import pytest
from pyVmomi import vim
from tests.unit.vsphere.updates import DEVICE, QUERY, controller, disk, machine, update, update_set

from farshore.api_types.vmware import DiskBacking, PlaceKind
from farshore.model.errors import Refused
from farshore.vsphere import inventory as inventories
from farshore.vsphere.inventory import Inventory


def known(*updates: Any) -> Inventory:
    inventory = Inventory()
    inventory.apply(update_set(*updates))
    return inventory


def test_a_machine_is_read() -> None:
    port = vim.dvs.PortConnection(switchUuid="s", portgroupKey="dvportgroup-7")
    nic = DEVICE.VirtualVmxnet3(
        key=4000,
        macAddress="00:50:56:AA:BB:CC",
        backing=DEVICE.VirtualEthernetCard.DistributedVirtualPortBackingInfo(port=port),
        connectable=DEVICE.VirtualDevice.ConnectInfo(startConnected=True, allowGuestControl=True, connected=True),
    )
    found = known(
        update(
            machine(),
            name="web1",
            parent=vim.Folder("group-v3"),
            config__uuid="420f1b2c-0000-0000-0000-000000000001",
            config__template=False,
            config__firmware="efi",
            config__hardware__memoryMB=2048,
            config__hardware__numCPU=2,
            config__hardware__device=[controller(), disk(), nic],
            runtime__powerState="poweredOn",
            guest__ipAddress="192.0.2.7",
            guest__net=[vim.vm.GuestInfo.NicInfo(ipAddress=["fe80::1", "192.0.2.7"], connected=True, deviceConfigId=1)],
            datastore=[vim.Datastore("datastore-1")],
        )
    ).machines["vm-1"]
    assert (found.name, found.folder, found.firmware, found.power) == ("web1", "group-v3", "efi", "poweredOn")
    assert (found.memory, found.processors, found.datastores) == (2 << 30, 2, ["datastore-1"])
    assert (found.address, found.addresses) == ("192.0.2.7", ["fe80::1", "192.0.2.7"])
    (only,) = found.disks
    assert (only.size, only.file, only.datastore) == (8 << 30, "[ds] web1/web1.vmdk", "datastore-1")
    assert (only.backing, only.controller, only.shared_bus) == (
        DiskBacking.FILE,
        "ParaVirtualSCSIController",
        "noSharing",
    )
    (card,) = found.nics
    assert (card.kind, card.mac, card.network) == ("VirtualVmxnet3", "00:50:56:aa:bb:cc", "dvportgroup-7")


def test_disks_of_other_kinds() -> None:
    raw = DEVICE.VirtualDisk.RawDiskMappingVer1BackingInfo(
        fileName="[ds] x.vmdk", compatibilityMode="physicalMode", diskMode="independent_persistent"
    )
    shared = DEVICE.VirtualDisk.FlatVer2BackingInfo(
        fileName="[ds] y.vmdk",
        diskMode="persistent",
        sharing="sharingMultiWriter",
        keyId=vim.encryption.CryptoKeyId(keyId="k"),
    )
    devices = [controller("physicalSharing"), disk(1, raw), disk(2, shared, controller=7)]
    first, second = known(update(machine(), config__hardware__device=devices)).machines["vm-1"].disks
    assert (first.backing, first.mode, first.shared_bus) == (
        DiskBacking.RDM_PHYSICAL,
        "independent_persistent",
        "physicalSharing",
    )
    assert (second.shared, second.encrypted, second.controller, second.shared_bus) == (True, True, "", "")


def test_a_change_changes_what_it_tells_of_and_nothing_else() -> None:
    inventory = known(update(machine(), name="web1", runtime__powerState="poweredOn", guest__ipAddress="192.0.2.7"))
    changes = inventory.apply(update_set(update(machine(), "modify", runtime__powerState="poweredOff")))
    assert (changes.machines, changes.gone) == ({"vm-1"}, set())
    found = inventory.machines["vm-1"]
    assert (found.name, found.power, found.address) == ("web1", "poweredOff", "192.0.2.7")
    unset = update(machine(), "modify")
    unset.changeSet = [QUERY.Change(name="guest.ipAddress", op="remove")]
    inventory.apply(update_set(unset))
    assert inventory.machines["vm-1"].address == ""


def test_who_enters_again_brings_nothing_along() -> None:
    inventory = known(update(machine(), name="web1", guest__ipAddress="192.0.2.7"))
    inventory.apply(update_set(update(machine(), name="web1")))
    assert inventory.machines["vm-1"].address == ""


def test_what_leaves_is_gone() -> None:
    inventory = known(
        update(machine(1), name="a"), update(machine(2), name="b"), update(vim.Datastore("ds-1"), name="d")
    )
    changes = inventory.apply(update_set(update(machine(1), "leave"), update(vim.Datastore("ds-1"), "leave")))
    assert changes.gone == {"vm-1", "ds-1"}
    assert (list(inventory.machines), list(inventory.places)) == (["vm-2"], [])
    both = inventory.apply(update_set(update(machine(3), name="c"), update(machine(3), "leave")))
    assert (both.machines, both.gone) == (set(), {"vm-3"})
    back = inventory.apply(update_set(update(machine(2), "leave"), update(machine(2), name="b")))
    assert (back.machines, back.gone) == ({"vm-2"}, set())


def test_what_may_not_be_read_is_noted_until_it_may() -> None:
    inventory = known(update(machine(), missing=("config.hardware.device", "guest.net"), name="web1"))
    assert inventory.machines["vm-1"].unread == ["config.hardware.device", "guest.net"]
    inventory.apply(update_set(update(machine(), "modify", config__hardware__device=[disk()])))
    found = inventory.machines["vm-1"]
    assert (found.unread, len(found.disks)) == (["guest.net"], 1)


def test_a_machine_that_is_not_as_the_sdk_says_ends_nothing() -> None:
    odd = DEVICE.VirtualDisk(key=1, controllerKey=1000, capacityInBytes=1)  # no backing, no label
    odd.backing = None
    broken = DEVICE.VirtualVmxnet3(key=1, backing=DEVICE.VirtualEthernetCard.DistributedVirtualPortBackingInfo())
    found = known(
        update(machine(1), name="odd", config__hardware__device=[odd, broken]),
        update(machine(2), name="n" * 1000 + "\x1b[31m"),
        update(machine(3), name="good"),
    ).machines
    assert found["vm-1"].unread == ["config.hardware.device"]
    assert len(found["vm-2"].name) == 200
    assert found["vm-3"].name == "good"


def test_snapshots_are_counted() -> None:
    def tree(*children: Any) -> Any:
        one = vim.vm.SnapshotTree(name="s", id=1)
        one.childSnapshotList = list(children)
        return one

    info = vim.vm.SnapshotInfo(rootSnapshotList=[tree(tree(), tree(tree()))])
    inventory = known(update(machine(), snapshot=info))
    assert inventory.machines["vm-1"].snapshots == 4


def test_places_have_their_kinds() -> None:
    found = known(
        update(vim.ClusterComputeResource("domain-c1"), name="cluster"),
        update(vim.dvs.DistributedVirtualPortgroup("dvportgroup-7"), name="net", summary__accessible=True),
        update(vim.HostSystem("host-1"), name="esx1", runtime__connectionState="disconnected"),
        update(vim.Datastore("ds"), name="d", summary__capacity=10, summary__freeSpace=4, summary__accessible=True),
        update(vim.ResourcePool("resgroup-1"), name="nobody asked"),
    ).places
    assert {one.name: one.kind for one in found.values()} == {
        "cluster": PlaceKind.CLUSTER,
        "net": PlaceKind.NETWORK,
        "esx1": PlaceKind.HOST,
        "d": PlaceKind.DATASTORE,
    }
    assert (found["host-1"].accessible, found["ds"].free, found["ds"].capacity) == (False, 4, 10)


def test_an_odd_datastore_ends_nothing() -> None:
    store = vim.Datastore("datastore-1")
    found = known(update(store, name="ds1", summary__capacity=1 << 40), update(machine(), name="web1"))
    found.apply(update_set(update(store, "modify", summary__capacity=1 << 70)))
    assert (found.places["datastore-1"].capacity, found.places["datastore-1"].name) == (1 << 40, "ds1")
    assert list(found.machines) == ["vm-1"]


def test_ids_are_as_their_rows_have_them() -> None:
    """Two that are cut to the same are one row; what drives a terminal is in neither id nor name."""
    long = "vm-" + "9" * 300
    found = known(*(update(vim.VirtualMachine(one), name="a\x9b31mb") for one in (long, f"{long}1", "vm\x1b[2J")))
    assert {one.id for one in found.machines.values()} == set(found.machines) == {long[:200], "vm\ufffd[2J"}
    assert {one.name for one in found.machines.values()} == {"a\ufffd31mb"}


def test_what_cannot_be_read_is_listed_up_to_a_bound() -> None:
    (found,) = known(update(machine(), name="web1", missing=tuple(f"p{n}" for n in range(999)))).machines.values()
    assert (found.name, len(found.unread)) == ("web1", 64)


def test_more_than_can_be_kept_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inventories, "MOST_KNOWN", 3)
    found = known(*(update(machine(n)) for n in range(3)))
    with pytest.raises(Refused, match="more than 3 machines"):
        found.apply(update_set(update(machine(3))))
