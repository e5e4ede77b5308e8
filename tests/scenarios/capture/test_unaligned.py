"""Direct I/O from memory whose pieces end anywhere, not at a sector: what is captured is the write, block by block.

Disks with a small ``dma_alignment`` (NVMe, SCSI) take such memory since Linux 6.0. The devices that can be had here ask
for 512 bytes; since 6.18 they see such a write, with its memory as it is, and refuse it afterwards. So its records can
be compared with the memory here, and with a disk that took it in a guest (../stacks/test_lvm_and_md.py).
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import mmap
import os
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from tests.loopdisks import SCRATCH, LoopDisk, loop_disk, require_data_mode
from tests.scenarios.capture.cut_sectors import program_that_cuts_sectors

from farshore.formats.batch import Batch, Role, decode, encode
from farshore.formats.record import RecordKind
from farshore.mobility.capture import Capture, capture
from farshore.mobility.capture.layout import RING_RECORD
from farshore.mobility.capture.program import Program
from farshore.mobility.records import convert
from farshore.model.errors import Damaged
from farshore.model.states import CaptureMode

pytestmark = pytest.mark.root
MIB = 1 << 20
BLOCK = 4096
WRITERS, ROUNDS = 4, 64
PAGE = mmap.PAGESIZE
MACHINE = "00000000-0000-0000-0000-000000000001"

Pieces = list[tuple[int, int]]
"""(offset in memory, bytes) of each piece of one write."""
SHIFTS = (4, 500, 516, 1000, 2052, 4092)
PIECES: dict[str, Pieces] = {
    "aligned": [(0, 16 * BLOCK)],
    "sectors": [(n * 1024, 512) for n in range(16)],
    "sectors across blocks": [(0, 1536), (4096, 8192), (20480, 2560)],
    **{f"shifted by {shift}": [(shift, 5 * BLOCK)] for shift in SHIFTS},
    "shifted, less than a block": [(PAGE - 700, 1536)],
    "many": [(n * 68, 64) for n in range(200)] + [(65536, 3584)],
    "odd": [(3, 1), (PAGE - 5, 6), (3 * PAGE + 1, 4089), (5 * PAGE - 1, 2), (7 * PAGE, 4094)],
}
BEGINS = (0, 512, 3584)
"""Where in a block the writes begin."""


@pytest.fixture(autouse=True)
def _root() -> None:
    require_data_mode()


@contextlib.contextmanager
def captured(size: int = 8 * MIB) -> Iterator[tuple[LoopDisk, Capture]]:
    with loop_disk(size) as disk, Capture({0: disk.disk}, ring_bytes=4 * MIB, scratch=SCRATCH) as seen:
        yield disk, seen


def write(disk: LoopDisk, offset: int, pieces: Pieces) -> tuple[bytes, bool]:
    """What was written, and whether the disk took it."""
    descriptor = os.open(disk.device, os.O_WRONLY | os.O_DIRECT)
    with mmap.mmap(-1, 64 * PAGE) as memory:
        memory[:] = os.urandom(len(memory))
        views = [memoryview(memory)[at : at + length] for at, length in pieces]
        data = b"".join(views)
        try:
            done = os.pwritev(descriptor, views, offset)
        except OSError:
            done = 0
        finally:
            os.close(descriptor)
            for view in views:
                view.release()
    assert done in (0, len(data))
    return data, done > 0


def drained(seen: Capture) -> np.ndarray:
    found = [np.empty(0, RING_RECORD)]
    while (batch := seen.drain(MIB)) is not None:
        found.append(batch.records.copy())
        batch.release()
    return np.concatenate(found)


def captured_writes(disk: LoopDisk, seen: Capture, begin: int, pieces: Pieces) -> tuple[bytes, np.ndarray, bool]:
    """The bytes, the records, and whether the disk took it."""
    if seen.mode is not CaptureMode.DATA:  # a write was refused
        seen.begin_data_mode()
    data, taken = write(disk, MIB + begin, pieces)
    return data, drained(seen), taken


def blocks_of(begin: int, length: int) -> list[tuple[int, int]]:
    """(sector, bytes) of each 4 KiB block's part of a write."""
    edges = [begin, *range(begin // BLOCK * BLOCK + BLOCK, begin + length, BLOCK), begin + length]
    return [((MIB + start) // 512, end - start) for start, end in itertools.pairwise(edges)]


def refused_after_the_hook() -> bool:
    """Whether this kernel shows block_bio_queue what it refuses for its memory."""
    major, minor = re.findall(r"\d+", os.uname().release)[:2]
    return (int(major), int(minor)) >= (6, 18)


def test_a_record_is_what_the_write_has_of_a_block_wherever_its_memory_ends() -> None:
    with captured() as (disk, seen):
        refused = 0
        for name, pieces in PIECES.items():
            for begin in BEGINS:
                data, records, taken = captured_writes(disk, seen, begin, pieces)
                assert taken or name not in ("aligned", "sectors"), name
                refused += not taken
                if not len(records) and not taken and not refused_after_the_hook():
                    continue
                told = [(int(one["sector"]), int(one["length"])) for one in records]
                assert told == blocks_of(begin, len(data)), (name, begin)
                assert b"".join(one["data"][: one["length"]].tobytes() for one in records) == data, (name, begin)
                assert len(set(records["time"].tolist())) == 1
                piece = convert(records)
                made = Batch(
                    "00000000-0000-0000-0000-000000000001", 1, Role.JOURNAL, 1, 0, piece.records, piece.payload
                )
                again = decode(b"".join(bytes(buffer) for buffer in encode(made)))
                assert set(again.records["kind"].tolist()) == {RecordKind.WRITE}
                assert bytes(again.payload) == data, (name, begin)
        assert refused, "this device takes any memory: compare the disk instead"
        counters = seen.counters()[0]
        assert counters.unplaced == 0, counters


def test_writers_side_by_side_do_not_mix_their_pieces() -> None:
    """Every 8 bytes tell the writer, so a byte of another write would show."""
    with captured() as (disk, seen), ThreadPoolExecutor(WRITERS) as writers:
        seen.begin_data_mode()
        found = list(writers.map(functools.partial(write_marked, disk), range(1, WRITERS + 1)))
        records = drained(seen)
        assert found == [True] * WRITERS, "this kernel takes no sectors that lie apart in memory"
        assert seen.mode is CaptureMode.DATA
        assert len(records) == WRITERS * ROUNDS * 2
        assert set(records["length"].tolist()) == {BLOCK}
        writer = records["sector"] // (MIB // 512)
        assert (records["data"].view(np.uint64) == writer[:, None]).all()


def write_marked(disk: LoopDisk, writer: int) -> bool:
    """Two blocks over and over, in sectors that lie apart in memory."""
    descriptor = os.open(disk.device, os.O_WRONLY | os.O_DIRECT)
    memory = mmap.mmap(-1, 16 * 1024)
    memory[:] = writer.to_bytes(8, "little") * (len(memory) // 8)
    views = [memoryview(memory)[at : at + 512] for at in range(0, len(memory), 1024)]
    try:
        return {os.pwritev(descriptor, views, writer * MIB) for _ in range(ROUNDS)} == {2 * BLOCK}
    finally:
        os.close(descriptor)


def test_without_joining_the_records_cut_sectors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: the check above sees the fault, and what converts records refuses them."""
    if not refused_after_the_hook():
        pytest.skip("needs Linux 6.18, which shows writes from such memory before it refuses them")
    monkeypatch.setattr(capture, "Program", functools.partial(Program, object_path=program_that_cuts_sectors(tmp_path)))
    with captured() as (disk, seen):
        data, records, _ = captured_writes(disk, seen, 0, PIECES["shifted by 516"])
        assert [(int(one["sector"]), int(one["length"])) for one in records] != blocks_of(0, len(data))
        assert (records["length"] % 512).any()
        with pytest.raises(Damaged, match="whole sectors"):
            convert(records)
