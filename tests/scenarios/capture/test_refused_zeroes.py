"""Write-zeroes that the driver refuses when it has them, and that fall back to writes: one heal, not one for each.

The disk's image lies on a tmpfs, which punches holes and zeroes no ranges: so the loop driver refuses one kind of
write-zeroes and carries out the other. Linux since 6.10 asks a loop device once; most drivers, and older kernels, are
asked again each time, so the limit is put back here.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.loopdisks import LoopDisk, loop_disk, require_data_mode, run, unmount
from tests.scenarios.capture.replica import apply, capturing, copy_dirty, differing_blocks

from farshore.formats.record import RecordKind
from farshore.mobility.capture import Cause
from farshore.mobility.capture.layout import DiskEntry
from farshore.mobility.capture.program import Program
from farshore.model.states import CaptureMode

pytestmark = pytest.mark.root
MIB = 1 << 20
_BLKZEROOUT, _LOOP_SET_BLOCK_SIZE = 0x127F, 0x4C09
_PUNCH_HOLE_KEEP_SIZE = 3


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[LoopDisk]:
    """All ones, with room of its own."""
    require_data_mode()
    run(f"mount -t tmpfs -o size=32m tmpfs {tmp_path}")
    try:
        with loop_disk(16 * MIB, scratch=tmp_path) as made:
            made.write(0, b"\1" * 16 * MIB)
            yield made
    finally:
        unmount(tmp_path)


def zero(disk: LoopDisk, block: int) -> None:
    """As mkfs and others do it: by write-zeroes, or by writes where that is refused."""
    descriptor = os.open(disk.device, os.O_WRONLY)
    try:
        ask_again(disk, descriptor)
        fcntl.ioctl(descriptor, _BLKZEROOUT, struct.pack("QQ", block * 4096, 4096))
    finally:
        os.close(descriptor)


def ask_again(disk: LoopDisk, descriptor: int) -> None:
    """Have the driver look again at what its file can do; it takes write-zeroes then."""
    for size in (1024, 512):
        fcntl.ioctl(descriptor, _LOOP_SET_BLOCK_SIZE, size)
    limit = Path("/sys/block", disk.device.name, "queue", "write_zeroes_max_bytes")
    assert int(limit.read_text()) > 0


def punch(disk: LoopDisk, block: int) -> None:
    """By write-zeroes that may unmap, which this disk does."""
    descriptor = os.open(disk.device, os.O_WRONLY)
    try:
        ask_again(disk, descriptor)
        libc = ctypes.CDLL(None, use_errno=True)
        place = (ctypes.c_int64(block * 4096), ctypes.c_int64(4096))
        assert libc.fallocate(descriptor, _PUNCH_HOLE_KEEP_SIZE, *place) == 0, os.strerror(ctypes.get_errno())
    finally:
        os.close(descriptor)


@pytest.mark.parametrize("forgets", [False, True], ids=["", "control"])
def test_the_first_one_costs_a_heal_and_no_other_does(disk, forgets):
    """Control: the program does not know that the driver refused one."""
    with capturing({0: disk}) as (capture, recorder):
        position = capture.begin_data_mode().position
        replica = disk.read()
        zero(disk, 1)
        assert (capture.mode, capture.status().cause) == (CaptureMode.BITMAP, Cause.WRITE_FAILED)
        apply(replica, recorder.records(position, capture.position()))
        dirty = capture.begin_data_mode()
        copy_dirty(replica, disk, dirty)
        for block in range(2, 5):
            if forgets:
                capture.exclude(0, [])  # makes the disk's entry anew
            zero(disk, block)
        assert capture.mode is (CaptureMode.BITMAP if forgets else CaptureMode.DATA)
        if forgets:
            return
        records = recorder.records(dirty.position, capture.position())
        assert set(records["kind"].tolist()) == {RecordKind.WRITE}
        apply(replica, records)
        assert differing_blocks(replica, disk.read()) == []
        counters = capture.counters()[0]
        assert counters.unplaced == 0
        assert counters.written == counters.written_done


def test_the_kind_that_the_driver_carries_out_is_recorded(disk):
    with capturing({0: disk}) as (capture, recorder):
        capture.begin_data_mode()
        zero(disk, 1)
        position = capture.begin_data_mode().position
        replica = disk.read()
        punch(disk, 2)
        assert capture.mode is CaptureMode.DATA
        records = recorder.records(position, capture.position())
        assert records["kind"].tolist() == [RecordKind.ZERO]
        apply(replica, records)
        assert differing_blocks(replica, disk.read()) == []


def believed_to_refuse(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every entry of a disk says that its driver has refused all kinds."""
    put = Program.put_disk

    def put_disk(self: Program, device: int, entry: DiskEntry) -> None:
        entry.refusing = 7
        put(self, device, entry)

    monkeypatch.setattr(Program, "put_disk", put_disk)


def test_one_that_succeeds_against_expectation_is_copied(disk, monkeypatch):
    with capturing({0: disk}) as (capture, recorder):
        position = capture.begin_data_mode().position
        replica = disk.read()
        believed_to_refuse(monkeypatch)
        capture.exclude(0, [])  # makes the disk's entry anew
        monkeypatch.undo()
        punch(disk, 2)
        assert (capture.mode, capture.status().cause) == (CaptureMode.BITMAP, Cause.UNSEEN)
        apply(replica, recorder.records(position, capture.position()))
        assert differing_blocks(replica, disk.read()) == [2], "control: without the heal it would stay"
        dirty = capture.begin_data_mode()
        copy_dirty(replica, disk, dirty)
        punch(disk, 3)
        assert capture.mode is CaptureMode.DATA
        apply(replica, recorder.records(dirty.position, capture.position()))
        assert differing_blocks(replica, disk.read()) == []
