"""The end of a round: what is read is one moment of the disk, or there is no point."""

from __future__ import annotations

from pathlib import Path
from typing import Callable, Dict, List, Mapping

import numpy as np
import pytest
from tests.unit.mobility.doubles import FakeClock

from farshore.formats.record import RecordKind
from farshore.mobility.capture.bitmap import NO_RANGES, Ranges, union
from farshore.mobility.copying.disk_reader import CopiedDisk
from farshore.mobility.rounds import still
from farshore.mobility.rounds.still import Still, StillReading, TooMuch
from farshore.model.errors import TryLater
from farshore.model.identifiers import BLOCK, DiskNumber

ONE = DiskNumber(0)
BLOCKS = 64


class Disk:
    """A disk in a file, its dirty bits, and what happens to it while it is read. ``script``: by collection."""

    def __init__(self, path: Path, script: Dict[int, Callable[[Disk], None]]) -> None:
        self.path = path
        self.path.write_bytes(b"\1" * BLOCK * BLOCKS)
        self.copied = CopiedDisk(ONE, path, BLOCK * BLOCKS)
        self._script = script
        self._dirty: List[Ranges] = []
        self._collections = 0

    def write(self, block: int, value: int) -> None:
        with self.path.open("r+b") as file:
            file.seek(block * BLOCK)
            file.write(bytes([value]) * BLOCK)
        self._dirty.append(np.array([[block, 1]], np.int64))

    def collect(self, *, timeout: float = 30.0) -> Mapping[DiskNumber, Ranges]:
        self._collections += 1
        found = union(self._dirty or [NO_RANGES], BLOCKS)
        self._dirty = []
        if self._collections in self._script:
            self._script[self._collections](self)
        return {ONE: found}


def replayed(image: bytearray, taken: Still) -> bytes:
    for piece in taken.pieces:
        offset = 0
        for row in piece.records:
            length = int(row["sectors"]) * 512
            start = int(row["sector"]) * 512
            if row["kind"] == RecordKind.WRITE:
                image[start : start + length] = bytes(piece.payload)[offset : offset + length]
                offset += length
            else:
                image[start : start + length] = bytes(length)
    return bytes(image)


@pytest.fixture
def replica() -> bytearray:
    return bytearray(b"\1" * BLOCK * BLOCKS)


@pytest.fixture(autouse=True)
def _plain_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.O_DIRECT", 0)  # /tmp may be in memory


def test_what_is_written_while_it_reads_is_read_again(tmp_path: Path, replica: bytearray) -> None:
    disk = Disk(tmp_path / "disk", {1: lambda disk: disk.write(7, 9), 2: lambda disk: disk.write(8, 9)})
    disk.write(3, 5)
    reading = StillReading(disk, [disk.copied], FakeClock(), 1 << 20)
    taken = reading.read({ONE: NO_RANGES}, lambda: True)
    assert replayed(replica, taken) == disk.path.read_bytes()
    assert len(taken.pieces) == 3


def test_the_first_reading_alone_would_not_have_been_a_moment(tmp_path: Path, replica: bytearray) -> None:
    """So the test above can fail: without the last look at the bitmap the replica is none of the disk's states."""

    def seven_then_three(disk: Disk) -> None:
        disk.write(7, 9)
        disk.write(3, 6)

    disk = Disk(tmp_path / "disk", {1: seven_then_three})
    disk.write(3, 5)
    taken = StillReading(disk, [disk.copied], FakeClock(), 1 << 20).read({ONE: NO_RANGES}, lambda: True)
    assert replayed(bytearray(replica), taken) == disk.path.read_bytes()
    once = replayed(replica, Still(taken.pieces[:1], taken.time))
    assert (once[7 * BLOCK], once[3 * BLOCK]) == (1, 6)
    assert (1, 6) not in {(1, 1), (1, 5), (9, 5), (9, 6)}, "what blocks 7 and 3 ever were"


def test_a_writer_that_never_rests_means_no_point_and_nothing_forgotten(tmp_path: Path) -> None:
    disk = Disk(tmp_path / "disk", {n: (lambda disk, n=n: disk.write(n, 9)) for n in range(1, 40)})
    reading = StillReading(disk, [disk.copied], FakeClock(), 1 << 20)
    with pytest.raises(TryLater, match="disk 0 outside of the frozen file systems"):
        reading.read({ONE: np.array([[50, 2]], np.int64)}, lambda: True)
    told = union([blocks[ONE] for blocks in reading.noted], BLOCKS)
    assert told.tolist() == [[1, still.LOOKS], [50, 2]]


def test_a_freeze_that_did_not_hold_is_no_point(tmp_path: Path) -> None:
    disk = Disk(tmp_path / "disk", {})
    with pytest.raises(TryLater, match="could not be frozen"):
        StillReading(disk, [disk.copied], FakeClock(), 1 << 20).read({ONE: NO_RANGES}, lambda: False)


def test_too_much_is_not_read_under_a_freeze(tmp_path: Path) -> None:
    disk = Disk(tmp_path / "disk", {})
    with pytest.raises(TooMuch):
        StillReading(disk, [disk.copied], FakeClock(), 4 * BLOCK).read(
            {ONE: np.array([[0, 5]], np.int64)}, lambda: True
        )
