"""Every way to a disk past its file system that this host has: each is in the stream as it is on the disk."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import mmap
import os
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.loopdisks import LoopDisk, loop_disk, require_data_mode, run, write_direct
from tests.scenarios.capture.replica import apply, capturing, copy_dirty, differing_blocks
from tests.scenarios.capture.rings import Ring

from farshore.model.states import CaptureMode

pytestmark = pytest.mark.root
MIB = 1 << 20
BLOCK = 4096
AT = 3 * MIB
PART, PART_START, PART_SIZE = 7, 8 * MIB, 4 * MIB
_BLKDISCARD, _BLKZEROOUT, _BLKSECDISCARD, _BLKPG = 0x1277, 0x127F, 0x127D, 0x1269
_BLKPG_ADD, _BLKPG_DEL = 1, 2
_KEEP_SIZE, _PUNCH_HOLE, _ZERO_RANGE = 1, 2, 0x10
_LIBC = ctypes.CDLL(None, use_errno=True)
Way = Callable[[LoopDisk], None]


@contextlib.contextmanager
def opened(path: Path, flags: int = 0) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDWR | flags)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def fresh() -> mmap.mmap:
    memory = mmap.mmap(-1, 2 * BLOCK)
    memory[:] = os.urandom(2 * BLOCK)
    return memory


def ranged(request: int) -> Way:
    def way(disk: LoopDisk) -> None:
        with opened(disk.device) as device:
            fcntl.ioctl(device, request, struct.pack("QQ", AT, 2 * BLOCK))

    return way


def allocated(mode: int) -> Way:
    def way(disk: LoopDisk) -> None:
        with opened(disk.device) as device:
            done = _LIBC.fallocate(device, mode, ctypes.c_int64(AT), ctypes.c_int64(2 * BLOCK))
            assert done == 0, os.strerror(ctypes.get_errno())

    return way


def by_ring(*, fixed: bool, flags: int) -> Way:
    def way(disk: LoopDisk) -> None:
        with opened(disk.device, flags) as device, Ring() as ring:
            memory = fresh()
            ring.register(memory)
            ring.write(device, memory, AT, fixed=fixed)
            os.fsync(device)

    return way


def sent(disk: LoopDisk) -> None:
    with opened(disk.device) as device, opened(_source(disk)) as source:
        os.lseek(device, AT, os.SEEK_SET)
        assert os.sendfile(device, source, 0, 2 * BLOCK) == 2 * BLOCK
        os.fsync(device)


def spliced(disk: LoopDisk) -> None:
    """Pages of a file's cache go into a pipe and from there to the disk."""
    reading, writing = os.pipe()
    try:
        with opened(disk.device) as device, opened(_source(disk)) as source:
            assert os.splice(source, writing, 2 * BLOCK, offset_src=0) == 2 * BLOCK
            assert os.splice(reading, device, 2 * BLOCK, offset_dst=AT) == 2 * BLOCK
            os.fsync(device)
    finally:
        os.close(reading)
        os.close(writing)


def _source(disk: LoopDisk) -> Path:
    path = disk.folder / "source"
    path.write_bytes(os.urandom(2 * BLOCK))
    return path


def mapped(disk: LoopDisk) -> None:
    with opened(disk.device) as device, mmap.mmap(device, 16 * MIB) as memory:
        memory[AT : AT + 5000] = os.urandom(5000)
        memory.flush()


@contextlib.contextmanager
def partition(disk: LoopDisk) -> Iterator[Path]:
    """Made while the disk is captured: its table says nothing of it."""
    made = disk.device.with_name(f"{disk.device.name}p{PART}")

    def change(operation: int) -> None:
        entry = ctypes.create_string_buffer(struct.pack("qqi64s64s", PART_START, PART_SIZE, PART, b"", b""))
        with opened(disk.device) as device:
            fcntl.ioctl(device, _BLKPG, struct.pack("iiiP", operation, 0, len(entry) - 1, ctypes.addressof(entry)))

    change(_BLKPG_ADD)
    try:
        if not made.exists():
            number = Path(f"/sys/class/block/{made.name}/dev").read_text().strip()
            os.mknod(made, 0o600 | 0o060000, os.makedev(*map(int, number.split(":"))))
        yield made
    finally:
        change(_BLKPG_DEL)
        made.unlink(missing_ok=True)


def through_a_partition(disk: LoopDisk) -> None:
    with partition(disk) as made:
        write_direct(made, BLOCK, os.urandom(2 * BLOCK))
        with opened(made) as device:
            os.pwrite(device, os.urandom(3000), 9 * BLOCK)
            os.fsync(device)


def through_a_loop_above(disk: LoopDisk) -> None:
    above = Path(run(f"losetup -f --show {disk.device}").strip())
    try:
        write_direct(above, AT, os.urandom(2 * BLOCK))
    finally:
        run(f"losetup -d {above}")


WAYS: dict[str, Way] = {
    "BLKZEROOUT": ranged(_BLKZEROOUT),
    "BLKDISCARD": ranged(_BLKDISCARD),
    "punched hole": allocated(_PUNCH_HOLE | _KEEP_SIZE),
    "zeroed range": allocated(_ZERO_RANGE | _KEEP_SIZE),
    "io_uring, direct": by_ring(fixed=False, flags=os.O_DIRECT),
    "io_uring, held memory, direct": by_ring(fixed=True, flags=os.O_DIRECT),
    "io_uring, held memory, buffered": by_ring(fixed=True, flags=0),
    "sendfile": sent,
    "splice": spliced,
    "mapped memory": mapped,
    "new partition": through_a_partition,
    "loop device above": through_a_loop_above,
}


@pytest.fixture(autouse=True)
def _root() -> None:
    require_data_mode()


def test_what_is_written_is_what_is_captured() -> None:
    """One capture for all of them, as its program takes longer to load than the rest."""
    with loop_disk(16 * MIB) as disk:
        disk.write(0, os.urandom(16 * MIB))
        with capturing({0: disk}) as (capture, recorder):
            for name, way in WAYS.items():
                disk.write(AT, fresh()[:])  # so that zeroes show
                start = capture.begin_data_mode().position
                replica = disk.read()
                way(disk)
                truth, mode = disk.read(), capture.mode
                assert differing_blocks(replica, truth), f"control: the disk has not changed: {name}"
                apply(replica, recorder.records(start, capture.position()))
                if mode is CaptureMode.BITMAP:  # the driver refused what it was asked for first
                    copy_dirty(replica, disk, capture.begin_data_mode())
                assert differing_blocks(replica, truth) == [], name
            capture.begin_data_mode()
            with pytest.raises(OSError, match="not supported"):  # BLKSECDISCARD, which no disk here can do
                ranged(_BLKSECDISCARD)(disk)
            assert capture.mode is CaptureMode.DATA
