"""Runs inside the guest, with the agent's own bundle: writes to an NVMe and a SCSI disk that pass its file systems by.

``python3 commands_in_guest.py SITE FAULTY``: SITE is the bundle's folder of modules, FAULTY a capture program that
takes a command for a write to the sector that its bio tells. Prints one line of JSON: by program and by way of writing,
mode and cause afterwards, whether all of the disk is dirty, and how many blocks differ between the disk and what was
captured, before and after the dirty ones are copied.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import json
import mmap
import os
import struct
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

sys.path.insert(0, sys.argv[1])

import numpy as np
import straight_commands as straight
from rings import Ring

from farshore.mobility.capture import Capture, capture
from farshore.mobility.capture.disks import disk_at
from farshore.mobility.capture.kernel import read_stat
from farshore.mobility.capture.program import Program
from farshore.mobility.copying.disk_reader import AlignedBuffer, CopiedDisk, DiskReader

MIB = 1 << 20
BLOCK = 4096
NVME, NVME_NODE, CONTROLLER = Path("/dev/nvme0n1"), Path("/dev/ng0n1"), Path("/dev/nvme0")
SCSI = Path("/dev/sda")
AT = 800
"""The sector that each way writes to."""
_BLKZEROOUT, _BLKDISCARD = 0x127F, 0x1277

Way = Callable[[], object]


def fresh() -> bytes:
    return os.urandom(BLOCK)


def polled_write(fixed: bool) -> None:
    memory = mmap.mmap(-1, BLOCK)
    memory[:] = fresh()
    descriptor = os.open(NVME, os.O_RDWR | os.O_DIRECT)
    try:
        with Ring(polled=True) as ring:
            ring.register(memory)
            ring.write(descriptor, memory, AT * 512, fixed=fixed)
    finally:
        os.close(descriptor)


def ranged(request: int) -> None:
    descriptor = os.open(NVME, os.O_RDWR)
    try:
        fcntl.ioctl(descriptor, request, struct.pack("QQ", AT * 512, 2 * BLOCK))
    finally:
        os.close(descriptor)


def generic_node() -> Path:
    return Path("/dev") / next((Path("/sys/block") / SCSI.name / "device" / "scsi_generic").iterdir()).name


HARMLESS: dict[Path, dict[str, Way]] = {
    NVME: {
        "flush": lambda: straight.nvme(NVME, 0x00),
        "read": lambda: straight.nvme(NVME, 0x02, (AT, 0, 0), read=512),
        "identify": lambda: straight.nvme(CONTROLLER, 0x06, (1,), read=BLOCK, admin=True),
        "polled": lambda: polled_write(False),
        "polled, held memory": lambda: polled_write(True),
        "zeroes": lambda: ranged(_BLKZEROOUT),
        "discard": lambda: ranged(_BLKDISCARD),
    },
    SCSI: {
        "test ready": lambda: straight.scsi_plain(SCSI, 0x00),
        "inquiry": lambda: straight.scsi_plain(SCSI, 0x12, 36),
        "read": lambda: straight.scsi_read(SCSI, AT),
    },
}
CHANGING: dict[Path, dict[str, Way]] = {
    NVME: {
        "write": lambda: straight.nvme_write(NVME, AT, fresh()),
        "write, character device": lambda: straight.nvme_write(NVME_NODE, AT, fresh()),
        "write by ring": lambda: straight.nvme_write_by_ring(NVME_NODE, AT, fresh()),
        "write zeroes": lambda: straight.nvme_write_zeroes(NVME, AT, 8),
        "deallocate": lambda: straight.nvme_deallocate(NVME, AT, 64),
        "format": lambda: straight.nvme_format(CONTROLLER),
    },
    SCSI: {
        "write": lambda: straight.scsi_write(SCSI, AT, fresh()),
        "write, generic device": lambda: straight.scsi_write(generic_node(), AT, fresh()),
        "write same": lambda: straight.scsi_write_same(SCSI, AT, 64, fresh()[:512]),
        "unmap": lambda: straight.scsi_unmap(SCSI, AT, 64),
    },
}


def image(device: Path) -> np.ndarray:
    disk = disk_at(device)
    buffer = AlignedBuffer(disk.size)
    with DiskReader(CopiedDisk(0, disk.path, disk.size)) as reader:
        reader.read(0, buffer.view)
    return np.frombuffer(buffer.view, np.uint8).copy()


def differing(one: np.ndarray, other: np.ndarray) -> int:
    return int((one.reshape(-1, BLOCK) != other.reshape(-1, BLOCK)).any(axis=1).sum())


def fill(device: Path) -> None:
    """So that zeroes show."""
    with device.open("r+b", buffering=0) as file:
        file.write(os.urandom(disk_at(device).size))
        os.fsync(file.fileno())


def apply(replica: np.ndarray, seen: Capture) -> None:
    end = seen.position()
    while seen.drained() < end:
        batch = seen.drain(MIB)
        for record in [] if batch is None else batch.records:
            at, length = int(record["sector"]) * 512, int(record["length"])
            replica[at : at + length] = record["data"][:length] if record["kind"] == 1 else 0
        if batch is not None:
            batch.release()


def heal(replica: np.ndarray, device: Path, ranges: np.ndarray) -> bool:
    """Whether all of the disk was dirty."""
    truth = image(device)
    for first, count in ranges.tolist():
        replica[first * BLOCK : (first + count) * BLOCK] = truth[first * BLOCK : (first + count) * BLOCK]
    return bool(ranges[:, 1].sum() * BLOCK >= len(replica))


@contextlib.contextmanager
def capturing(device: Path, bitmap_only: bool) -> Iterator[Capture]:
    with Capture({0: disk_at(device)}, ring_bytes=4 * MIB, scratch=Path("/root"), bitmap_only=bitmap_only) as seen:
        yield seen


def tried(device: Path, way: Way, bitmap_only: bool) -> list:
    """Mode, cause, commands, bytes that only the kernel counted, all dirty, blocks that differ before and after."""
    with capturing(device, bitmap_only) as seen:
        if bitmap_only:
            seen.collect(timeout=60)
        else:
            seen.begin_data_mode(timeout=60)
        replica, counted, own = image(device), read_stat(disk_at(device).device), seen.counters()[0]
        way()
        apply(replica, seen)
        status, counters = seen.status(), seen.counters()[0]
        kernel = read_stat(disk_at(device).device)
        uncounted = kernel.written + kernel.discarded - counted.written - counted.discarded
        uncounted -= counters.written + counters.discarded - own.written - own.discarded
        before = differing(replica, image(device))
        dirty = seen.collect(timeout=60) if bitmap_only else seen.begin_data_mode(timeout=60).blocks
        whole = heal(replica, device, dirty[0])
        after = differing(replica, image(device))
        cause = "" if status.cause is None else status.cause.name
        return [status.mode.value, cause, counters.commands, uncounted, whole, before, after]


def all_of(ways: dict[Path, dict[str, Way]], bitmap_only: bool = False) -> dict[str, list]:
    found = {}
    for device, some in ways.items():
        fill(device)
        for name, way in some.items():
            try:
                found[f"{device.name}: {name}"] = tried(device, way, bitmap_only)
            except OSError as error:
                found[f"{device.name}: {name}"] = [str(error)]
    return found


def main() -> None:
    found = {"harmless": all_of(HARMLESS), "changing": all_of(CHANGING), "bitmap": all_of(CHANGING, bitmap_only=True)}
    capture.Program = functools.partial(Program, object_path=Path(sys.argv[2]))
    found["faulty"] = all_of(CHANGING)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
