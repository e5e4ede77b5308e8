"""New machines as VMware is told of them: addresses that it takes, places for disks, sizes."""

from __future__ import annotations

from dataclasses import replace

import pytest
from pyVmomi import vim
from tests.unit.vsphere.updates import controller, disk

from farshore.vsphere.building import MOST_DISKS, NewCard, NewMachine, free_unit, guest_id, mac_type, machine_spec
from farshore.vsphere.recovered import forms_of

DEVICE = vim.vm.device
MACHINE = NewMachine(
    name="web1",
    uuid="u",
    instance_uuid="i",
    processors=2,
    memory=(1 << 30) + 1,
    efi=True,
    system="Debian GNU/Linux 12 (bookworm)",
    datastore="ds",
    disks=[8 << 30, (1 << 20) + 512],
    cards=[NewCard("00:50:56:80:00:01", vim.Network("network-1"), connected=False)],
    notes="Recovered.",
    options={"farshore.failover": "f"},
)


@pytest.fixture(autouse=True)
def network(monkeypatch: pytest.MonkeyPatch) -> None:
    backing = DEVICE.VirtualEthernetCard.NetworkBackingInfo(deviceName="VM Network")
    monkeypatch.setattr("farshore.vsphere.building.network_backing", lambda _network: backing)


@pytest.mark.parametrize(
    ("mac", "kind"),
    [
        ("00:50:56:3f:ff:ff", "manual"),
        ("00:50:56:40:00:00", "assigned"),
        ("00:0c:29:01:02:03", "generated"),
        ("52:54:00:01:02:03", "manual"),
    ],
)
def test_an_address_of_vmwares_own_is_told_as_what_it_is(mac: str, kind: str) -> None:
    assert mac_type(mac) == kind


@pytest.mark.parametrize(
    ("system", "word"),
    [
        ("Debian GNU/Linux 12 (bookworm)", "debian10_64Guest"),
        ("Debian GNU/Linux 9", "debian8_64Guest"),
        ("Ubuntu 24.04 LTS", "ubuntu64Guest"),
        ("Rocky Linux 9.3", "rhel8_64Guest"),
        ("CentOS Linux 7 (Core)", "rhel7_64Guest"),
        ("SUSE Linux Enterprise Server 15 SP5", "sles12_64Guest"),
        ("Arch Linux", "other3xLinux64Guest"),
    ],
)
def test_guest_systems(system: str, word: str) -> None:
    assert guest_id(system) == word


def test_sizes_are_rounded_up_to_what_vsphere_takes() -> None:
    spec = machine_spec(MACHINE)
    assert (spec.memoryMB, spec.firmware) == (1028, "efi")
    disks = [one.device for one in spec.deviceChange if isinstance(one.device, DEVICE.VirtualDisk)]
    assert [one.capacityInKB for one in disks] == [8 << 20, 1025]
    (card,) = (one.device for one in spec.deviceChange if isinstance(one.device, DEVICE.VirtualVmxnet3))
    assert (card.addressType, card.connectable.startConnected) == ("assigned", False)


def test_many_disks_hang_on_several_controllers_and_never_on_unit_7() -> None:
    spec = machine_spec(replace(MACHINE, disks=[1 << 20] * MOST_DISKS))
    devices = [one.device for one in spec.deviceChange]
    controllers = [one.key for one in devices if isinstance(one, DEVICE.ParaVirtualSCSIController)]
    places = [(one.controllerKey, one.unitNumber) for one in devices if isinstance(one, DEVICE.VirtualDisk)]
    assert len(set(places)) == MOST_DISKS == 60
    assert {key for key, _ in places} == set(controllers)
    assert 7 not in {unit for _, unit in places}


def test_a_free_unit_is_found_or_none() -> None:
    taken = [disk(2000 + unit, unitNumber=unit) for unit in range(16) if unit not in (7, 9)]
    assert free_unit([controller(), *taken]) == (1000, 9)
    assert free_unit([controller(), *taken, disk(2009, unitNumber=9)]) is None
    assert free_unit(taken) is None


def test_both_forms_in_which_a_guest_may_read_its_uuid() -> None:
    first, second = "564d1122-3344-5566-7788-99aabbccddee", "22114d56-4433-6655-7788-99aabbccddee"
    assert forms_of(first) == (first, second)
    assert forms_of(second.upper()) == (second, first)
    assert forms_of("none") == ()
