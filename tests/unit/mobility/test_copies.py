"""The copies against a double that keeps a replica: whole, sparse, excluded, interrupted, dirty blocks only."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import List, Tuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.mobility.doubles import KEY, MACHINE, FakeClock, ProcessServerDouble

from farshore.formats.batch import Role
from farshore.formats.chunk_exchange import Comparison, Verdict
from farshore.mobility.capture.bitmap import union
from farshore.mobility.copying.base_sender import BaseSender
from farshore.mobility.copying.disk_reader import CopiedDisk
from farshore.mobility.copying.overlay_copy import GAP_BLOCKS, SPAN_BLOCKS, OverlayCopy, spans
from farshore.mobility.copying.progress import CopyProgress
from farshore.mobility.retrying import Stopped
from farshore.mobility.stream.batches import Journal
from farshore.mobility.stream.throttle import Bandwidth, Courtesy
from farshore.model.errors import Damaged, Unreachable
from farshore.model.identifiers import BLOCK, CHUNK

MIB = 1 << 20


@pytest.fixture
def image(tmp_path: Path) -> Tuple[Path, np.ndarray]:
    """9 MiB and a bit: random, zero and repeated parts."""
    random = np.random.default_rng(7)
    data = random.integers(0, 256, 9 * MIB + 5 * 512, dtype=np.uint8)
    data[MIB : 3 * MIB] = 0
    data[4 * MIB : 4 * MIB + CHUNK] = data[:CHUNK]
    data[-512:] = 0
    path = tmp_path / "disk"
    path.write_bytes(data.tobytes())
    return path, data


class Copying:
    def __init__(self, disk: CopiedDisk, server: ProcessServerDouble) -> None:
        self.clock = FakeClock()
        self.progress = CopyProgress(self.clock, disk.size)
        self.parts = {
            "progress": self.progress,
            "bandwidth": Bandwidth(self.clock),
            "courtesy": Courtesy(self.clock, 1.0),
        }
        self.base = BaseSender([disk], server, KEY, **self.parts)


def test_the_base_arrives_whole_and_zeroes_are_not_sent(image: Tuple[Path, np.ndarray]) -> None:
    path, data = image
    server = ProcessServerDouble({0: len(data)})
    copying = Copying(CopiedDisk(0, path, len(data)), server)
    copying.base.run(threading.Event())
    assert (server.state(0) == data).all()
    whole = -(-len(data) // CHUNK)
    assert whole - 32 - 1 <= server.sent_chunks <= whole - 32  # equal chunks may be under way at the same time
    report = copying.progress.report()
    assert (report.done, report.total) == (len(data), len(data))
    assert report.sent == len(data) - 2 * MIB - (whole - 32 - server.sent_chunks) * CHUNK


def test_a_second_copy_sends_nothing(image: Tuple[Path, np.ndarray]) -> None:
    path, data = image
    server = ProcessServerDouble({0: len(data)})
    for _ in range(2):
        Copying(CopiedDisk(0, path, len(data)), server).base.run(threading.Event())
        sent, server.sent_chunks = server.sent_chunks, 0
    assert sent == 0


def test_what_the_copy_did_not_hold_before_is_told(image: Tuple[Path, np.ndarray]) -> None:
    disk = CopiedDisk(0, image[0], len(image[1]))
    verdicts = np.array([Verdict.HAVE, Verdict.FOUND, Verdict.FOUND, Verdict.HAVE, Verdict.FOUND], np.uint8)

    class Server(ProcessServerDouble):
        def compare(self, comparison: Comparison) -> np.ndarray:
            found = np.full(len(comparison.hashes), Verdict.HAVE, np.uint8)
            if comparison.first_chunk == 0:
                found[: len(verdicts)] = verdicts
            return found

    changed: List[Tuple[int, int, int]] = []
    parts = Copying(disk, ProcessServerDouble({0: disk.size})).parts
    BaseSender([disk], Server({0: disk.size}), KEY, changed=lambda *run: changed.append(run), **parts).run(
        threading.Event()
    )
    assert changed == [(0, 1, 3), (0, 4, 5)]


def test_excluded_ranges_read_as_zeroes(image: Tuple[Path, np.ndarray]) -> None:
    path, data = image
    server = ProcessServerDouble({0: len(data)})
    excluded = ((3 * MIB + 4096, 3 * MIB + 3 * CHUNK), (8 * MIB, 10 * MIB))
    Copying(CopiedDisk(0, path, len(data), excluded), server).base.run(threading.Event())
    wanted = data.copy()
    for start, end in excluded:
        wanted[start:end] = 0
    assert (server.state(0) == wanted).all()


def test_trouble_on_the_way_only_delays(image: Tuple[Path, np.ndarray]) -> None:
    path, data = image
    calls: List[str] = []

    def trouble(call: str) -> None:
        calls.append(call)
        if len(calls) in (1, 4):
            raise Unreachable("away", remedy="")

    server = ProcessServerDouble({0: len(data)}, trouble)
    Copying(CopiedDisk(0, path, len(data)), server).base.run(threading.Event())
    assert (server.state(0) == data).all()


def test_a_stop_ends_the_copy_even_while_the_server_is_away(image: Tuple[Path, np.ndarray]) -> None:
    path, data = image
    stop = threading.Event()

    def trouble(_call: str) -> None:
        stop.set()
        raise Unreachable("away", remedy="")

    with pytest.raises(Stopped):
        Copying(CopiedDisk(0, path, len(data)), ProcessServerDouble({0: len(data)}, trouble)).base.run(stop)


def test_a_disk_that_ends_early_is_damage(image: Tuple[Path, np.ndarray]) -> None:
    path, data = image
    disk = CopiedDisk(0, path, len(data) + 8 * MIB)
    with pytest.raises(Damaged, match="cannot be read"):
        Copying(disk, ProcessServerDouble({0: disk.size})).base.run(threading.Event())


def test_dirty_blocks_only(image: Tuple[Path, np.ndarray]) -> None:
    path, data = image
    blocks = -(-len(data) // BLOCK)
    ranges = np.array([[0, 1], [3, 5], [300, 700], [1100, 1], [blocks - 2, 2]], np.int64)
    server = ProcessServerDouble({0: len(data)})
    server.base[0][:] = 0xAA
    clock = FakeClock()
    disk = CopiedDisk(0, path, len(data))
    copying = Copying(disk, server)
    journal = Journal(MACHINE, 1, clock, Role.BASE)
    OverlayCopy([disk], {0: ranges}, server, journal, clock, **copying.parts).run(threading.Event())
    wanted = np.full(len(data), 0xAA, np.uint8)
    for start, count in ranges.tolist():
        wanted[start * BLOCK : (start + count) * BLOCK] = data[start * BLOCK : (start + count) * BLOCK]
    assert (server.state(0) == wanted).all()
    assert copying.progress.report().done == int(ranges[:, 1].sum()) * BLOCK - (-len(data) % BLOCK)


@given(st.lists(st.tuples(st.integers(0, 5000), st.integers(1, 1500)), min_size=1, max_size=20))
def test_spans_cover_exactly_the_dirty_blocks(pieces: List[Tuple[int, int]]) -> None:
    ranges = union([np.array([piece], np.int64) for piece in pieces], 1 << 40)
    covered: List[int] = []
    for first, end, wanted in spans(ranges):
        assert end - first <= SPAN_BLOCKS
        assert (wanted[0], wanted[-1]) == (first, end - 1)
        assert (np.diff(wanted) <= GAP_BLOCKS + 1).all()
        covered += wanted.tolist()
    assert covered == [block for start, count in ranges.tolist() for block in range(start, start + count)]


def test_windows_of_zeroes_are_told_together(tmp_path: Path) -> None:
    path = tmp_path / "sparse"
    with path.open("wb") as file:
        file.truncate(64 * MIB)
        file.seek(40 * MIB)
        file.write(b"x")
    calls: List[str] = []
    server = ProcessServerDouble({0: 64 * MIB}, calls.append)
    server.base[0][:] = 0xAA
    copying = Copying(CopiedDisk(0, path, 64 * MIB), server)
    copying.base.run(threading.Event())
    assert bytes(server.state(0)) == path.read_bytes()
    assert calls.count("compare") == 3
    assert copying.progress.report().done == 64 * MIB
