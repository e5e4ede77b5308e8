"""Runs inside the guest, with the agent's own bundle: direct I/O from memory that ends anywhere, on an NVMe disk.

``python3 unaligned_in_guest.py SITE FAULTY``: SITE is the bundle's folder of modules, FAULTY a capture program whose
records end where memory does. Prints one line of JSON: by program, how many writes the disk took, and how many blocks
differ between the disk and what was captured.
"""

from __future__ import annotations

import json
import mmap
import os
import sys
import time
from pathlib import Path

sys.path.insert(0, sys.argv[1])

import numpy as np
from scattered import one_page

from farshore.mobility.capture import Capture, capture
from farshore.mobility.capture.disks import disk_at
from farshore.mobility.capture.program import Program
from farshore.mobility.copying.disk_reader import AlignedBuffer, CopiedDisk, DiskReader

MIB = 1 << 20
PAGE = mmap.PAGESIZE
MOST = 16
DEVICE = Path("/dev/nvme0n1")
PIECES = [
    *([(shift, length)] for shift in (4, 516, 1000, 2052, 4092) for length in (512, 4096, 20480)),
    [(4, 512), (PAGE + 8, 1024), (3 * PAGE - 4, 2560)],
]
"""(offset in memory, bytes) of each piece of each write: in fours, as the disk asks for."""


def image(disk) -> np.ndarray:
    buffer = AlignedBuffer(MOST * MIB)
    with DiskReader(CopiedDisk(0, disk.path, disk.size)) as reader:
        reader.read(0, buffer.view)
    return np.frombuffer(buffer.view, np.uint8).copy()


def write(offset: int, pieces: list) -> bool:
    descriptor = os.open(DEVICE, os.O_WRONLY | os.O_DIRECT)
    memory = one_page(16)
    try:
        views = [memoryview(memory)[at : at + length] for at, length in pieces]
        return os.pwritev(descriptor, views, offset) == sum(length for _, length in pieces)
    except OSError:
        return False
    finally:
        os.close(descriptor)


def captured() -> list:
    """Writes that the disk took, blocks that differ, records that are no whole sectors."""
    disk = disk_at(DEVICE)
    with Capture({0: disk}, ring_bytes=4 * MIB, scratch=Path("/root")) as seen:
        seen.begin_data_mode(timeout=60)
        replica = image(disk)
        taken = sum(write(number * MIB // 2 + number % 8 * 512, one) for number, one in enumerate(PIECES))
        cut = 0
        while seen.drained() < seen.position():
            batch = seen.drain(MIB)
            if batch is None:
                time.sleep(0.01)
                continue
            for record in batch.records:
                at, length = int(record["sector"]) * 512, int(record["length"])
                cut += length % 512 > 0
                if record["kind"] == 1:
                    replica[at : at + length] = record["data"][:length]
            batch.release()
        differing = (replica.reshape(-1, 4096) != image(disk).reshape(-1, 4096)).any(axis=1)
        return [taken, int(differing.sum()), cut, seen.mode.value]


def main() -> None:
    alignment = int(Path(f"/sys/block/{DEVICE.name}/queue/dma_alignment").read_text())
    found = {"dma_alignment": alignment, "writes": len(PIECES), "program": captured()}
    capture.Program = lambda **sizes: Program(**sizes, object_path=Path(sys.argv[2]))
    found["faulty"] = captured()
    print(json.dumps(found))


if __name__ == "__main__":
    main()
