"""A raw file as the destination of a delivery: sparse, aligned or not, itself and no other."""

from __future__ import annotations

import mmap
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from farshore.delivery import raw_disk
from farshore.delivery.raw_disk import RawDisk
from farshore.model.errors import Damaged, NoSpace, Refused

SIZE = (3 << 20) + 512
"""Ends within a block."""


def aligned(data: bytes) -> memoryview:
    """The bytes at the start of a page."""
    buffer = mmap.mmap(-1, len(data))
    buffer[:] = data
    return memoryview(buffer)


@pytest.mark.parametrize("direct", [True, False])
def test_what_is_written_is_read_back_and_what_is_not_takes_no_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, direct: bool
) -> None:
    if not direct:
        monkeypatch.setattr(raw_disk, "_open_direct", lambda _path: None)
    path, tail = tmp_path / "disk", os.urandom(4096 + 512)
    disk = RawDisk(path, SIZE)
    assert disk.blank
    disk.write(1 << 20, aligned(b"a" * 65536))
    disk.write(SIZE - len(tail), aligned(tail))
    disk.write(512, memoryview(b"u" * 512))
    disk.zero((1 << 20) + 4096, 4096)
    disk.flush()
    found = aligned(bytes(SIZE))
    disk.read_into(0, found)
    expected = bytearray(SIZE)
    expected[1 << 20 : (1 << 20) + 65536] = b"a" * 65536
    expected[(1 << 20) + 4096 : (1 << 20) + 8192] = bytes(4096)
    expected[512:1024] = b"u" * 512
    expected[-len(tail) :] = tail
    assert bytes(found) == expected == path.read_bytes()
    assert path.stat().st_blocks * 512 < 1 << 20
    zero = [extent for extent in disk.extents(0, SIZE) if extent.zero]
    assert sum(extent.length for extent in zero) > 2 << 20
    disk.close()
    assert path.stat().st_mode & 0o077 == 0


def test_a_disk_that_was_made_anew_is_another_one(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    first = RawDisk(path, SIZE)
    again = RawDisk(path, SIZE)
    assert first.identity == again.identity
    path.rename(tmp_path / "elsewhere")
    other = RawDisk(path, SIZE)
    assert other.identity != first.identity
    for disk in (first, again, other):
        disk.close()


def test_too_little_room_is_told_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = RawDisk(tmp_path / "disk", SIZE)
    disk.check_room(SIZE)
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: SimpleNamespace(free=100 << 20))
    with pytest.raises(NoSpace, match=f"{tmp_path} needs 200 MiB of free space, but has 100 MiB") as raised:
        disk.check_room(200 << 20)
    assert "Free space there" in raised.value.remedy
    disk.close()


def test_what_is_no_disk_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    for name in ("pipe", "link", "."):
        with pytest.raises((Refused, raw_disk.TryLater)) as raised:
            RawDisk(tmp_path / name, SIZE)
        assert raised.value.remedy
    assert not (tmp_path / "elsewhere").exists()


def test_a_disk_that_somebody_cut_short_is_damaged(tmp_path: Path) -> None:
    disk = RawDisk(tmp_path / "disk", SIZE)
    os.truncate(tmp_path / "disk", 4096)
    with pytest.raises(Damaged, match="shortened"):
        disk.read_into(1 << 20, aligned(bytes(4096)))
    disk.close()
