"""From a machine's description and a position to the export and the machine to build."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from farshore.delivery.port import Consignment
from farshore.delivery.served import ServedDelivery, export_settings
from farshore.export.launch import ExportLauncher
from farshore.export.settings import ExportSettings
from farshore.model.identifiers import DiskNumber
from farshore.model.machine import DiskDescription, Firmware, MachineDescription, NicDescription
from farshore.model.target import DiskBus, MachineTarget, NetworkKind, TargetNetwork, mac_of
from farshore.recovery.orders import Target, recovery_order
from farshore.sites.orders import read_order, write_order
from farshore.sites.port import AttachedNetwork, FailoverId

TARGET = Target(FailoverId("f"), "m", "db1", "2:77", isolated=True, forward={2222: 22})
SIZES = {DiskNumber(3): 2 << 30, DiskNumber(1): 1 << 30}
FOLDER = Path("/var/lib/farshore/failovers/f")
CONSIGNMENT = Consignment(FOLDER, "db1", "m", "2:77", SIZES, "file:///vault", "ab" * 32)
MEDIA = ServedDelivery(ExportLauncher()).media(CONSIGNMENT)
MACHINE = MachineDescription(
    hostname="db1",
    firmware=Firmware.UEFI,
    processors=2,
    memory=1 << 30,
    operating_system="",
    kernel="",
    architecture="x86_64",
    disks=(
        DiskDescription(DiskNumber(1), "sda", 1 << 30, serial="S1"),
        DiskDescription(DiskNumber(2), "sdb", 1 << 30, excluded=True),
        DiskDescription(DiskNumber(3), "sdc", 2 << 30, logical_block_size=4096, boot=True),
    ),
)


def test_every_disk_gets_an_overlay_of_its_own() -> None:
    settings = export_settings(CONSIGNMENT)
    assert [(disk.name, disk.source.identity) for disk in settings.disks] == [
        ("1", "m 2:77 disk 1"),
        ("3", "m 2:77 disk 3"),
    ]
    assert len({disk.overlay for disk in settings.disks}) == 2
    assert "abab" not in repr(settings) + repr(CONSIGNMENT)
    assert ExportSettings.model_validate_json(settings.document()) == settings


def test_the_machine_starts_from_its_boot_disk() -> None:
    order = recovery_order(TARGET, MACHINE, SIZES, MEDIA)
    assert [(disk.number, disk.boot, disk.medium, disk.logical_block_size) for disk in order.disks] == [
        (1, False, MEDIA[DiskNumber(1)], 512),
        (3, True, MEDIA[DiskNumber(3)], 4096),
    ]
    assert order.isolated


def test_the_machine_is_what_its_target_says() -> None:
    wanted = MachineTarget(
        processors=4,
        memory=2 << 30,
        firmware=Firmware.BIOS,
        disk_bus=DiskBus.SATA,
        networks=(
            TargetNetwork(NetworkKind.BRIDGE, "br0", ("192.0.2.9/24",)),
            TargetNetwork(NetworkKind.ISOLATED, keep_mac=False),
        ),
        network=TargetNetwork(NetworkKind.NETWORK, "prod"),
        tags={"owner": "dba"},
    )
    nics = tuple(NicDescription(f"eth{number}", f"52:54:00:00:00:0{number}", ("10.0.0.7/24",)) for number in range(3))
    machine, real = replace(MACHINE, nics=nics), replace(TARGET, isolated=False, wanted=wanted)
    order = recovery_order(real, machine, SIZES, MEDIA)
    built = order.machine
    assert (built.processors, built.memory, built.firmware) == (4, 2 << 30, Firmware.BIOS)
    assert (order.disk_bus, order.tags) == (DiskBus.SATA, {"owner": "dba"})
    assert order.networks == {
        0: AttachedNetwork(NetworkKind.BRIDGE, "br0"),
        2: AttachedNetwork(NetworkKind.NETWORK, "prod"),
    }
    assert [nic.addresses for nic in built.nics] == [("192.0.2.9/24",), ("10.0.0.7/24",), ("10.0.0.7/24",)]
    assert [nic.mac for nic in built.nics] == ["52:54:00:00:00:00", mac_of("f", 1), "52:54:00:00:00:02"]
    assert len({mac_of("f", 0), mac_of("f", 1), mac_of("g", 0)}) == 3


def test_a_test_leads_nowhere_whatever_the_target_says() -> None:
    wanted = MachineTarget(network=TargetNetwork(NetworkKind.BRIDGE, "br0"))
    machine = replace(MACHINE, nics=(NicDescription("eth0", "52:54:00:00:00:01"),))
    assert recovery_order(replace(TARGET, wanted=wanted), machine, SIZES, MEDIA).networks == {}
    assert recovery_order(replace(TARGET, wanted=wanted, isolated=False), machine, SIZES, MEDIA).networks


def test_an_order_of_a_machine_without_choices_is_what_it_was_before_there_were_any() -> None:
    machine = replace(MACHINE, nics=(NicDescription("eth0", "no mac at all"),))
    order = recovery_order(TARGET, machine, SIZES, MEDIA)
    assert order.machine == machine
    fields = json.loads(write_order(order))
    for new in ("disk_bus", "networks", "tags"):
        del fields[new]
    assert read_order(json.dumps(fields).encode()) == order


def test_cards_may_be_added() -> None:
    wanted = MachineTarget(networks=(TargetNetwork(NetworkKind.BRIDGE, "br0"),))
    order = recovery_order(replace(TARGET, wanted=wanted, isolated=False), MACHINE, SIZES, MEDIA)
    assert [nic.mac for nic in order.machine.nics] == [mac_of("f", 0)]


def test_without_a_boot_disk_the_first_one_is_tried() -> None:
    order = recovery_order(TARGET, replace(MACHINE, disks=()), SIZES, MEDIA)
    assert [disk.boot for disk in order.disks] == [True, False]
