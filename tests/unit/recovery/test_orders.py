"""From a machine's description and a position to the export and the machine to build."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from farshore.delivery.port import Consignment
from farshore.delivery.served import ServedDelivery, export_settings
from farshore.export.launch import ExportLauncher
from farshore.export.settings import ExportSettings
from farshore.model.identifiers import DiskNumber
from farshore.model.machine import DiskDescription, Firmware, MachineDescription
from farshore.recovery.orders import Target, recovery_order
from farshore.sites.port import FailoverId

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


def test_without_a_boot_disk_the_first_one_is_tried() -> None:
    order = recovery_order(TARGET, replace(MACHINE, disks=()), SIZES, MEDIA)
    assert [disk.boot for disk in order.disks] == [True, False]
