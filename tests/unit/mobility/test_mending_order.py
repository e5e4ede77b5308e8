"""Mending while writes are in flight, by simulation: whatever the schedule, journal and disk end equal.

A write is recorded when it is submitted and lands at any later moment, or never while the test looks on. Blocks are
read from the disk at any moment in between. Control: with every sector taken from the disk, as if what is in flight had
landed, most schedules end with older bytes above newer ones.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Iterator, List, Tuple

import numpy as np
import pytest
from tests.unit.mobility.doubles import MACHINE, FakeClock, RingDouble

from farshore.formats.batch import decode
from farshore.formats.record import RecordKind
from farshore.mobility.copying.disk_reader import CopiedDisk
from farshore.mobility.copying.overlay_copy import dirty_pieces
from farshore.mobility.stream.backlog import Backlog
from farshore.mobility.stream.batches import Journal
from farshore.mobility.stream.pump import Pump, PumpState
from farshore.mobility.stream.recorded import RecordedSectors
from farshore.mobility.stream.records import Piece
from farshore.model.identifiers import DiskNumber
from farshore.model.states import CaptureMode

BLOCKS, SECTOR = 40, 512
SIZE = BLOCKS * 4096 - 1024  # the disk ends within a block


class Simulation:
    def __init__(self, path: Path, seed: int) -> None:
        self.chance = random.Random(seed)
        self.path = path
        self.path.write_bytes(bytes(SIZE))
        self.clock = FakeClock()
        self.ring = RingDouble(self.clock)
        self.backlog = Backlog(None, memory_bytes=1 << 26)
        journal = Journal(MACHINE, 1, self.clock)
        self.pump = Pump(self.ring, journal, self.backlog, self.clock, {DiskNumber(0): SIZE})
        self.pump.opened()
        self.in_flight: List[Tuple[int, bytes]] = []
        self.replica = bytearray(SIZE)

    def submit(self) -> None:
        count = self.chance.choice((1, 2, 8, 8))
        block = self.chance.randrange(BLOCKS - 1)
        sector = block * 8 + self.chance.randrange(9 - count)
        data = self.chance.choice((bytes(count * SECTOR), self.chance.randbytes(count * SECTOR)))
        overlapping = [one for one in self.in_flight if overlap(one, sector, count)]
        if overlapping:  # an order that the disk decides is nobody's
            return
        self.in_flight.append((sector, data))
        if self.ring.mode is CaptureMode.DATA:
            self.ring.write(sector, data)

    def land(self) -> None:
        if self.in_flight:
            sector, data = self.in_flight.pop(self.chance.randrange(len(self.in_flight)))
            with self.path.open("r+b") as file:
                file.seek(sector * SECTOR)
                file.write(data)

    def live(self, steps: int) -> None:
        for _ in range(steps):
            self.chance.choice((self.submit, self.submit, self.land, self.pump.step))()

    def replay(self) -> bytes:
        while True:
            batch = self.backlog.head(0)
            if batch is None:
                return bytes(self.replica)
            read = decode(b"".join(bytes(buffer) for buffer in batch.buffers))
            at = 0
            for row in read.records:
                start, length = int(row["sector"]) * SECTOR, int(row["sectors"]) * SECTOR
                if row["kind"] == RecordKind.WRITE:
                    self.replica[start : start + length] = read.payload[at : at + length]
                    at += length
                elif row["kind"] == RecordKind.ZERO:
                    self.replica[start : start + length] = bytes(length)
            self.backlog.acknowledge(batch.end)

    def run(self) -> bool:
        """Overflow twice; whether the journal ends with what the disk holds."""
        disk = CopiedDisk(DiskNumber(0), self.path, SIZE)
        dirty = {DiskNumber(0): np.array([[0, BLOCKS]], np.int64)}

        def read(recorded: RecordedSectors) -> Iterator[Piece]:
            for piece in dirty_pieces([disk], dirty, self.clock, recorded):
                for _ in range(6):
                    self.chance.choice((self.submit, self.land))()  # after the reading, before it is in the journal
                yield piece

        for _ in range(2):
            self.live(30)
            self.ring.mode = CaptureMode.BITMAP
            while self.pump.step() is not PumpState.ENDED:
                pass
            self.live(20)
            self.pump.reopen()
            self.ring.mode = CaptureMode.DATA
            self.pump.opened()
            before = list(self.in_flight)
            self.live(20)  # what was submitted before is waited for, what comes meanwhile has its record
            while any(one in self.in_flight for one in before):
                self.land()
            self.pump.mend(read)
            while not self.pump.whole:
                self.live(1)
        while self.in_flight:
            self.land()
        while self.pump.step() is PumpState.WORKED:
            pass
        return self.replay() == self.path.read_bytes()


def overlap(one: Tuple[int, bytes], sector: int, count: int) -> bool:
    return one[0] < sector + count and sector < one[0] + len(one[1]) // SECTOR


@pytest.fixture(autouse=True)
def _small_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("farshore.mobility.copying.overlay_copy.SPAN_BLOCKS", 8)
    monkeypatch.setattr("farshore.mobility.copying.overlay_copy.GAP_BLOCKS", 0)


def test_the_journal_ends_with_what_the_disk_holds(tmp_path: Path) -> None:
    for seed in range(12):
        assert Simulation(tmp_path / "disk", seed).run(), seed


def test_control_without_leaving_recorded_sectors_out_older_bytes_win(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RecordedSectors, "within", lambda self, disk, first, end: np.zeros(end - first, bool))
    wrong = [seed for seed in range(8) if not Simulation(tmp_path / "disk", seed).run()]
    assert len(wrong) >= 2
