"""The lab disk's geometry, and the two addresses that GRUB's images are given."""

from __future__ import annotations

import struct

import pytest

from farshore.lab.disk_layout import MIB, SECTOR, Layout, patched_boot_sector, patched_core
from farshore.model.errors import Malformed


def test_partitions_follow_one_another_and_leave_room_for_the_backup_table() -> None:
    layout = Layout(2048 * MIB, 128 * MIB)
    assert layout.boot.start == MIB
    assert layout.boot.start + layout.boot.length == layout.swap.start
    assert layout.swap.start + layout.swap.length == layout.root.start
    assert layout.root.start + layout.root.length == 2047 * MIB
    assert layout.root.length % 4096 == 0


def test_the_boot_sector_points_at_the_core_image_and_leaves_the_partition_table_alone() -> None:
    image = bytes(range(256)) + bytes(254) + b"\x55\xaa"
    patched = patched_boot_sector(image, 2048)
    assert len(patched) == 440
    assert struct.unpack_from("<Q", patched, 0x5C) == (2048,)
    assert patched[:0x5C] == image[:0x5C]
    assert patched[0x64:] == image[0x64:440]


@pytest.mark.parametrize("image", [b"", bytes(512), bytes(510) + b"\x55\xaa\x00"])
def test_what_is_no_boot_sector_is_refused(image: bytes) -> None:
    with pytest.raises(Malformed):
        patched_boot_sector(image, 2048)


def test_the_core_image_finds_its_own_rest() -> None:
    core = patched_core(b"\x01" * (3 * SECTOR + 5), 2048)
    assert len(core) == 4 * SECTOR
    assert struct.unpack_from("<QH", core, SECTOR - 12) == (2049, 3)
    assert core[-SECTOR:] == b"\x01" * 5 + bytes(SECTOR - 5)


def test_a_core_image_that_does_not_fit_its_partition_is_refused() -> None:
    with pytest.raises(Malformed):
        patched_core(bytes(MIB + 1), 2048)
