"""Direct I/O from memory that lies in pieces: what is captured is the write, block by block, wherever a piece ends.

Disks with a small ``dma_alignment`` (NVMe, SCSI) take memory that ends within a sector since Linux 6.0. Of the devices
that can be had here only zram is handed such memory, since 6.18, and it puts it down wrongly; so what was captured is
compared with the memory here, and with a disk in a guest (../stacks/test_lvm_and_md.py).
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import mmap
import os
import re
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from tests.loopdisks import SCRATCH, loop_disk, read_direct, require_data_mode
from tests.scenarios.capture.cut_sectors import program_that_cuts_sectors
from tests.scenarios.capture.scattered import one_page

from farshore.formats.batch import Batch, Role, decode, encode
from farshore.formats.record import RecordKind
from farshore.mobility.capture import Capture, capture
from farshore.mobility.capture.disks import disk_at
from farshore.mobility.capture.layout import RING_RECORD
from farshore.mobility.capture.program import Program
from farshore.mobility.stream.records import convert
from farshore.model.errors import Damaged
from farshore.model.states import CaptureMode

pytestmark = pytest.mark.root
MIB = 1 << 20
BLOCK = 4096
PAGE = mmap.PAGESIZE
PAGES = 64
WRITERS, ROUNDS = 4, 64
MACHINE = "00000000-0000-0000-0000-000000000001"
ZRAM = Path("/sys/class/zram-control")

Pieces = list[tuple[int, int]]
"""(offset in memory, bytes) of each piece of one write."""
WHOLE_SECTORS: dict[str, Pieces] = {
    "whole pages": [(0, 16 * BLOCK)],
    "sectors": [(n * 1024, 512) for n in range(16)],
    "across blocks": [(0, 1536), (4096, 8192), (20480, 2560)],
    "shifted": [(512, 5 * BLOCK)],
    "less than a block": [(PAGE - 1024, 1536)],
}
BEGINS = (0, 512, 3584)
"""Where in a block the writes begin."""
CUT_SECTORS: dict[str, Pieces] = {
    **{f"shifted by {shift}": [(shift, 5 * BLOCK)] for shift in (4, 500, 516, 1000, 2052, 4092)},
    "many": [(n * 68, 64) for n in range(200)] + [(65536, 3584)],
    "odd": [(3, 1), (PAGE - 5, 6), (3 * PAGE + 1, 4089), (5 * PAGE - 1, 2), (7 * PAGE, 4094)],
}


@pytest.fixture(autouse=True)
def _root() -> None:
    require_data_mode()


@contextlib.contextmanager
def zram() -> Iterator[Path]:
    """A compressed disk in memory, of this test's own."""
    subprocess.run(["modprobe", "-q", "zram"], check=False)
    if not ZRAM.exists():
        pytest.skip("needs zram, which takes memory that ends within a sector")
    number = int((ZRAM / "hot_add").read_text())
    try:
        Path(f"/sys/block/zram{number}/disksize").write_text(str(8 * MIB))
        # Without, whether earlier writes have ended cannot be asked.
        Path(f"/sys/block/zram{number}/queue/iostats").write_text("1")
        yield Path(f"/dev/zram{number}")
    finally:
        (ZRAM / "hot_remove").write_text(str(number))


@contextlib.contextmanager
def captured(device: Path) -> Iterator[Capture]:
    with Capture({0: disk_at(device)}, ring_bytes=4 * MIB, scratch=SCRATCH) as seen:
        seen.begin_data_mode()
        yield seen


def write(device: Path, offset: int, pieces: Pieces) -> bytes:
    """What was written. Raises OSError."""
    descriptor = os.open(device, os.O_WRONLY | os.O_DIRECT)
    with one_page(PAGES) as memory:
        views = [memoryview(memory)[at : at + length] for at, length in pieces]
        data = b"".join(views)
        try:
            assert os.pwritev(descriptor, views, offset) == len(data)
        finally:
            os.close(descriptor)
            for view in views:
                view.release()
    return data


def drained(seen: Capture) -> np.ndarray:
    found = [np.empty(0, RING_RECORD)]
    while (batch := seen.drain(MIB)) is not None:
        found.append(batch.records.copy())
        batch.release()
    return np.concatenate(found)


def blocks_of(offset: int, length: int) -> list[tuple[int, int]]:
    """(sector, bytes) of each 4 KiB block's part of a write."""
    end = offset + length
    edges = [offset, *range(offset // BLOCK * BLOCK + BLOCK, end, BLOCK), end]
    return [(low // 512, high - low) for low, high in itertools.pairwise(edges)]


def places(records: np.ndarray) -> list[tuple[int, int]]:
    return [(int(one["sector"]), int(one["length"])) for one in records]


def assert_the_write(records: np.ndarray, offset: int, data: bytes, name: str) -> None:
    """One record for each block; and what goes to the process server holds the same bytes."""
    assert places(records) == blocks_of(offset, len(data)), name
    assert b"".join(one["data"][: one["length"]].tobytes() for one in records) == data, name
    piece = convert(records)
    made = Batch(MACHINE, 1, Role.JOURNAL, 1, 0, piece.records, piece.payload)
    again = decode(b"".join(bytes(buffer) for buffer in encode(made)))
    assert set(again.records["kind"].tolist()) == {RecordKind.WRITE}
    assert bytes(again.payload) == data, name


def test_a_record_is_all_that_a_write_has_of_a_block() -> None:
    with loop_disk(8 * MIB) as disk, captured(disk.device) as seen:
        for (name, pieces), begin in itertools.product(WHOLE_SECTORS.items(), BEGINS):
            data = write(disk.device, MIB + begin, pieces)
            assert_the_write(drained(seen), MIB + begin, data, name)
            assert read_direct(disk.device, MIB + begin, len(data)).tobytes() == data, name
        assert seen.mode is CaptureMode.DATA
        assert seen.counters()[0].unplaced == 0


def test_a_write_that_the_disk_takes_in_parts_has_a_record_of_each_part() -> None:
    with loop_disk(8 * MIB) as disk:
        Path("/sys/block", disk.device.name, "queue", "max_sectors_kb").write_text("16")
        with captured(disk.device) as seen:
            data = write(disk.device, MIB + 512, WHOLE_SECTORS["whole pages"])
            records = drained(seen)
            assert len(places(records)) > len(blocks_of(MIB + 512, len(data)))
            assert b"".join(one["data"][: one["length"]].tobytes() for one in records) == data
            ends = records["sector"] + records["length"] // 512
            assert np.array_equal(records["sector"][1:], ends[:-1])
            assert seen.mode is CaptureMode.DATA


def test_also_where_memory_ends_within_a_sector() -> None:
    with zram() as device, captured(device) as seen:
        for name, pieces in CUT_SECTORS.items():
            try:
                data = write(device, MIB, pieces)
            except OSError:
                assert not shown_to_every_device(), name
                assert not len(drained(seen)), name
            else:
                assert_the_write(drained(seen), MIB, data, name)
        assert seen.mode is CaptureMode.DATA


def test_writers_side_by_side_do_not_mix_their_pieces() -> None:
    """Every 8 bytes tell the writer, so a byte of another write would show."""
    with loop_disk(8 * MIB) as disk, captured(disk.device) as seen, ThreadPoolExecutor(WRITERS) as writers:
        list(writers.map(functools.partial(write_marked, disk.device), range(1, WRITERS + 1)))
        records = drained(seen)
        assert seen.mode is CaptureMode.DATA
        assert len(records) == WRITERS * ROUNDS * 2
        assert set(records["length"].tolist()) == {BLOCK}
        writer = records["sector"] // (MIB // 512)
        assert (records["data"].view(np.uint64) == writer[:, None]).all()


def write_marked(device: Path, writer: int) -> None:
    """Two blocks over and over, in sectors that lie apart in memory."""
    descriptor = os.open(device, os.O_WRONLY | os.O_DIRECT)
    memory = mmap.mmap(-1, 16 * 1024)
    memory[:] = writer.to_bytes(8, "little") * (len(memory) // 8)
    views = [memoryview(memory)[at : at + 512] for at in range(0, len(memory), 1024)]
    try:
        for _ in range(ROUNDS):
            assert os.pwritev(descriptor, views, writer * MIB) == 2 * BLOCK
    finally:
        os.close(descriptor)


def test_records_that_end_where_memory_does_are_seen_and_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: the checks above see the fault, and what converts records does not take them."""
    faulty = functools.partial(Program, object_path=program_that_cuts_sectors(tmp_path))
    monkeypatch.setattr(capture, "Program", faulty)
    with loop_disk(8 * MIB) as disk, captured(disk.device) as seen:
        data = write(disk.device, MIB, WHOLE_SECTORS["sectors"])
        assert places(drained(seen)) != blocks_of(MIB, len(data))
    if not shown_to_every_device():
        return
    with zram() as device, captured(device) as seen:
        write(device, MIB, CUT_SECTORS["odd"])
        records = drained(seen)
        assert (records["length"] % 512).any()
        with pytest.raises(Damaged, match="whole number of sectors"):
            convert(records)


def shown_to_every_device() -> bool:
    """Whether this kernel leaves it to each driver to refuse memory; before 6.18 all devices here are spared it."""
    major, minor = re.findall(r"\d+", os.uname().release)[:2]
    return (int(major), int(minor)) >= (6, 18)
