"""Sector ranges, and disks as sysfs describes them, over a made-up sysfs."""

from __future__ import annotations

from pathlib import Path

import pytest

from farshore.mobility.capture import disks, extents
from farshore.mobility.capture.extents import SectorRange, join
from farshore.mobility.capture.kernel import sync_file_system
from farshore.model.errors import NotFound


def test_join():
    assert join([]) == ()
    ranges = [SectorRange(10, 20), SectorRange(0, 5), SectorRange(20, 30), SectorRange(3, 6), SectorRange(40, 41)]
    assert join(ranges) == (SectorRange(0, 6), SectorRange(10, 30), SectorRange(40, 41))


@pytest.fixture
def sysfs(tmp_path, monkeypatch):
    """vda with one partition, an LVM volume on it, a CD drive and a loop device."""
    devices, numbers = tmp_path / "devices", tmp_path / "dev"
    numbers.mkdir()

    def add(path: str, number: str, **attributes: str) -> Path:
        place = devices / path
        place.mkdir(parents=True)
        (place / "dev").write_text(number + "\n")
        for name, value in attributes.items():
            target = place / name.replace("__", "/")
            target.parent.mkdir(exist_ok=True)
            target.write_text(value + "\n")
        (numbers / number).symlink_to(place)
        return place

    add("vda", "254:0", size="2097152", queue__logical_block_size="512", queue__physical_block_size="4096", serial="S1")
    part = add("vda/vda1", "254:1", partition="1", start="2048", size="2095104")
    volume = add("dm-0", "253:0", size="1000", queue__logical_block_size="512")
    (volume / "slaves").mkdir()
    (volume / "slaves/vda1").symlink_to(part)
    add("sr0", "11:0", size="2000")
    add("loop0", "7:0", size="2000")
    add("vdb", "254:16", size="0")
    block = tmp_path / "block"
    block.mkdir()
    for name in ("vda", "dm-0", "sr0", "loop0", "vdb"):
        (block / name).symlink_to(devices / name)
    monkeypatch.setattr(disks, "SYS_BLOCK", block)
    monkeypatch.setattr(disks, "SYS_DEVICES", numbers)
    return tmp_path


def test_disks_with_data_of_their_own(sysfs):
    (found,) = disks.find_disks()
    assert (found.name, found.device, found.size, found.serial) == ("vda", "254:0", 1 << 30, "S1")
    assert (found.logical_block_size, found.physical_block_size, found.sectors) == (512, 4096, 2097152)
    assert [(p.name, p.start, p.size) for p in found.partitions] == [("vda1", 1 << 20, 2095104 * 512)]


def test_partitions_and_volumes_lead_to_their_disk(sysfs):
    assert disks.disk_of("254:1").name == "vda"
    assert disks.bottom_disks("253:0") == {"254:0"}
    with pytest.raises(NotFound):
        disks.disk_of("9:9")


def test_mounts(sysfs, monkeypatch):
    mounts = sysfs / "mountinfo"
    mounts.write_text(
        "22 1 254:1 / / rw shared:1 - ext4 /dev/vda1 rw\n"
        "23 22 253:0 / /srv\\040data rw shared:2 - xfs /dev/mapper/data rw\n"
        "24 22 0:30 / /proc rw - proc proc rw\n"
    )
    monkeypatch.setattr(disks, "MOUNTS", mounts)
    assert disks.mounted_on() == {"/": {"254:0"}, "/srv data": {"254:0"}}


def test_a_file_system_is_frozen_once_wherever_it_is_mounted(sysfs, monkeypatch):
    """Bind mounts, and btrfs subvolumes: the kernel refuses to freeze the same file system again."""
    mounts = sysfs / "mountinfo"
    mounts.write_text(
        "22 1 254:1 / / rw shared:1 - ext4 /dev/vda1 rw\n"
        "25 22 254:1 /var/log /log rw shared:1 - ext4 /dev/vda1 rw\n"
        "23 22 253:0 / /data rw shared:2 - xfs /dev/mapper/data rw\n"
    )
    monkeypatch.setattr(disks, "MOUNTS", mounts)
    assert disks.mounted_once() == {"/": {"254:0"}, "/data": {"254:0"}}


def test_a_swap_area_that_cannot_be_opened_here_is_reported_and_captured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = tmp_path / "swaps"
    listed.write_text(f"Filename Type Size Used Priority\n{tmp_path}/gone file 1024 0 -2\n")
    monkeypatch.setattr(extents, "SWAPS", listed)
    assert extents.swap_ranges() == {}
    [(path, why)] = extents.hidden_swaps()
    assert path == tmp_path / "gone"
    assert "No such file" in why


def test_only_local_file_systems_with_buffer_heads_are_synced(tmp_path, monkeypatch):
    """An NFS mount whose server does not answer would be waited for for ever."""
    lines = [
        "21 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw",
        "22 21 8:2 / /boot/a\\040b rw - vfat /dev/sda2 rw",
        "23 21 0:40 / /srv rw - nfs4 server:/x rw,hard",
        "24 21 8:3 / /data rw - xfs /dev/sda3 rw",
    ]
    mounts = tmp_path / "mountinfo"
    mounts.write_text("\n".join(lines) + "\n")
    monkeypatch.setattr("farshore.mobility.capture.disks.MOUNTS", mounts)
    assert disks.buffered_mounts() == [Path("/"), Path("/boot/a b")]


def test_a_file_system_is_synced_or_an_error_says_why_not(tmp_path):
    sync_file_system(tmp_path)
    with pytest.raises(FileNotFoundError):
        sync_file_system(tmp_path / "absent")
