"""Whole Debian systems of different roots, firmware and ways of configuring a network start on another bus and answer
at another address, once their copy was prepared. ``test_prepared_guest.py`` has the control that does not."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from tests.scenarios.recovery.systems import SYSTEMS, Kind, make
from tests.scenarios.recovery.test_prepared_guest import ADDRESS, Copy

from farshore.export.mounted import served
from farshore.export.raw_file import RawFileSource
from farshore.lab.image import ensure_image
from farshore.model.machine import Firmware
from farshore.model.target import DiskBus
from farshore.sites.qemu.accelerator import FIRMWARE

pytestmark = [
    pytest.mark.soak,
    pytest.mark.root,
    pytest.mark.guest,
    pytest.mark.timeout(3600),
    pytest.mark.filterwarnings("default::ResourceWarning"),
]
NETWORK_FILES = {
    "networkd": "/etc/systemd/network/05-farshore-lan0.network",
    "NetworkManager": "/etc/NetworkManager/system-connections/farshore-lan0.nmconnection",
}


@pytest.mark.parametrize(
    ("kind", "bus"),
    [
        (Kind("xfs", Firmware.BIOS, "networkd"), DiskBus.SATA),
        (Kind("lvm", Firmware.BIOS, "NetworkManager"), DiskBus.SATA),
        (Kind("ext4", Firmware.UEFI, "networkd"), DiskBus.PVSCSI),
    ],
    ids=lambda one: f"{one.root}-{one.firmware.value}-{one.network}" if isinstance(one, Kind) else one.value,
)
def test_a_prepared_system_starts_and_answers(kind: Kind, bus: DiskBus, tmp_path: Path) -> None:
    if kind.firmware is Firmware.UEFI and not any(path.exists() for path in FIRMWARE):
        pytest.skip("the package ovmf is not installed")
    image = ensure_image(SYSTEMS)
    disk = make(image, kind, tmp_path)
    with (
        tempfile.TemporaryDirectory(prefix="fs-") as folder,
        served(RawFileSource(disk), Path(folder) / "overlay") as socket,
    ):
        copy = Copy(image, disk, socket, kind.firmware, kind.boot_entries)
        report = copy.prepare(bus)
        changed = {line.partition(":")[0] for line in report.changes}
        expected = {"/etc/fstab", NETWORK_FILES[kind.network]}
        # A volume is called the same on any bus.
        assert changed >= (expected if kind.root == "lvm" else {*expected, "/boot/grub/grub.cfg"}), report
        with copy.booted(bus) as shell:
            shell.wait(1200)
            assert ADDRESS in shell.run("ip -4 -br address show dev lan0").output
            assert "192.0.2.1" in shell.run("ip route show default").output
            root = shell.run("findmnt -no FSTYPE,SOURCE /").output.split()
            assert root == [kind.file_system, kind.device if kind.root == "lvm" else "/dev/sda3"]
            firmware = shell.run("test -d /sys/firmware/efi && echo uefi || echo bios").output.strip()
            assert firmware == ("uefi" if kind.firmware is Firmware.UEFI else "bios")
            active = shell.run("systemctl is-active NetworkManager systemd-networkd", check=False).output.split()
            assert active == (["active", "inactive"] if kind.network == "NetworkManager" else ["inactive", "active"])
