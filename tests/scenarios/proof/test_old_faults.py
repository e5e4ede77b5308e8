"""Five ways to a silently wrong copy that there once were: each is put back, and a proof finds and heals what it does.

Real capture and real epochs over a disk whose writes the test holds. Without the proof nothing tells of any of them.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import pytest
from tests.loopdisks import SCRATCH, require_data_mode
from tests.scenarios.capture.held_disk import HeldDisk, held_disk
from tests.scenarios.capture.replica import differing_blocks
from tests.unit.mobility.doubles import KEY, MACHINE, ProcessServerDouble
from tests.waiting import PATIENCE, until

from farshore.api_types.machines import EpochGrant, EpochKind
from farshore.mobility import pump
from farshore.mobility.capture import Capture
from farshore.mobility.clock import SystemClock
from farshore.mobility.disk_reader import CopiedDisk
from farshore.mobility.epoch_run import EpochRun, Limits
from farshore.mobility.proving import prover
from farshore.mobility.proving.proving import Demand, Proving
from farshore.mobility.recorded import RecordedSectors
from farshore.mobility.records import convert, join
from farshore.mobility.throttle import Bandwidth, Courtesy
from farshore.model.identifiers import CHUNK, DiskNumber
from farshore.model.states import CaptureMode

pytestmark = pytest.mark.root
MIB = 1 << 20
SIZE = 4 * MIB
RING = 64 << 10
NUMBER = DiskNumber(0)


def block(value: int) -> bytes:
    return bytes([value]) * 4096


class Gate:
    """Lets a call through when the test says so."""

    def __init__(self) -> None:
        self.reached, self.opened = threading.Event(), threading.Event()

    def wait(self) -> None:
        self.reached.set()
        assert self.opened.wait(PATIENCE)


@dataclass
class Epoch:
    """A machine's disk, its stream and its copy, all of this process."""

    disk: HeldDisk
    server: ProcessServerDouble
    capture: Capture
    run: EpochRun
    proving: Proving

    def differing(self) -> list[int]:
        """The blocks of the copy that differ once all is acknowledged."""
        until(lambda: self.run.consistent, "not consistent")
        last = self.run._pump.milestone()
        last.wait(PATIENCE)
        until(lambda: self.run.acknowledged >= last.sequence, "not acknowledged")
        return differing_blocks(self.server.state(0), self.disk.read())

    def prove(self) -> Demand:
        demand = self.proving.demand(whole=True)
        until(lambda: self.proving.demanded is not demand, "the proof does not end")
        assert not demand.failed
        return demand


@contextlib.contextmanager
def epoch(disk: HeldDisk, server: ProcessServerDouble) -> Iterator[Epoch]:
    clock = SystemClock()
    grant = EpochGrant(epoch=1, kind=EpochKind.INITIAL, process_server="https://localhost:1", hash_key=KEY.hex())
    copied = [CopiedDisk(NUMBER, disk.loop.device, SIZE)]
    limits = Limits(Bandwidth(clock), Courtesy(clock, 1.0))
    proving = Proving(None, clock)
    proving.pace = 0
    stop = threading.Event()
    with Capture({NUMBER: disk.disk}, ring_bytes=RING, scratch=SCRATCH) as capture:
        made = EpochRun(MACHINE, grant, capture, copied, server, None, clock, limits, proving=proving)
        thread = threading.Thread(target=made.run, args=(stop,))
        thread.start()
        try:
            yield Epoch(disk, server, capture, made, proving)
        finally:
            stop.set()
            thread.join(PATIENCE)
            assert not thread.is_alive()


def mended_above(disk: HeldDisk, patch: pytest.MonkeyPatch) -> Iterator[Epoch]:
    """A missed block is read again while a newer write to it, which has a record, is in flight."""
    patch.setattr(RecordedSectors, "within", lambda self, disk, first, end: np.zeros(end - first, bool))
    copying, mending = Gate(), Gate()
    server = ProcessServerDouble({0: SIZE}, lambda call: copying.wait() if call == "compare" else None)
    settled, entries = Capture.settled, []

    def gated(self, entry, *, timeout):
        dirty = settled(self, entry, timeout=timeout)
        entries.append(entry)
        if len(entries) == 2:
            # Which blocks are missed hangs on how soon the ring is drained: this one is.
            dirty = replace(dirty, blocks={NUMBER: np.array([[0, 256]])})
            mending.wait()
        return dirty

    patch.setattr(Capture, "settled", gated)
    with epoch(disk, server) as made:
        assert copying.reached.wait(PATIENCE)
        disk.write(0, os.urandom(MIB))  # more than the ring holds
        assert mending.reached.wait(PATIENCE)
        before = made.run.captured
        disk.hold(8192, block(2))
        until(lambda: made.run.captured > before, "the record was not drained")
        mending.opened.set()
        until(lambda: made.run._pump.whole, "not mended")
        disk.release()
        copying.opened.set()
        yield made


def stale_attempt(disk: HeldDisk, patch: pytest.MonkeyPatch) -> Iterator[Epoch]:
    """What was missed goes into the base, below the records of the entry into data mode that failed."""

    def as_it_was(self, workers, stop):
        while True:
            self._pump._ended, self._pump._opening = False, True
            workers.remove(self._pump_worker)
            if self._enter(workers, stop):
                break
        self._overlay = self._dirty.blocks

    patch.setattr(EpochRun, "_enter_again", as_it_was)
    gap, entries, enter = Gate(), [], Capture.enter_data_mode

    def gated(self):
        entries.append(self)
        if len(entries) == 2:
            gap.wait()
        return enter(self)

    patch.setattr(Capture, "enter_data_mode", gated)
    disk.hold(3 * MIB, block(9))
    with epoch(disk, ProcessServerDouble({0: SIZE})) as made:
        until(lambda: made.capture.mode is CaptureMode.DATA, "data mode was not entered")
        disk.write(2 * MIB, block(1))
        until(lambda: made.run.captured >= 1, "the record was not drained")
        disk.write(0, os.urandom(MIB))  # more than the ring holds, while the held write is waited for
        assert gap.reached.wait(PATIENCE)
        disk.write(2 * MIB, block(2))
        gap.opened.set()
        until(lambda: len(entries) == 2 and made.capture.mode is CaptureMode.DATA, "not entered again")
        disk.release()
        yield made


def taken_as_landed(disk: HeldDisk, patch: pytest.MonkeyPatch) -> Iterator[Epoch]:
    """A write that has been in flight for long is taken as landed: the base has the bytes from before it."""
    patch.setattr(Capture, "_not_ended", lambda self, before: None)
    enter, held = Capture.enter_data_mode, []

    def with_a_write_in_flight(self):
        if not held:
            held.append(True)
            disk.hold(8192, block(7))
        return enter(self)

    patch.setattr(Capture, "enter_data_mode", with_a_write_in_flight)
    with epoch(disk, ProcessServerDouble({0: SIZE})) as made:
        until(lambda: made.run.consistent, "not consistent")
        disk.release()
        yield made


def cut_within_sectors(disk: HeldDisk, patch: pytest.MonkeyPatch) -> Iterator[Epoch]:
    """The pieces of a write's memory are joined wrongly: right in length, wrong in bytes."""

    def wrongly(fragments):
        piece = convert(fragments)
        payload = bytearray(piece.payload)
        if len(payload) == 4096 and payload[0] == 3:
            payload[:] = payload[2000:] + payload[:2000]
        return replace(piece, payload=bytes(payload))

    with epoch(disk, ProcessServerDouble({0: SIZE})) as made:
        until(lambda: made.run.consistent, "not consistent")
        patch.setattr(pump, "convert", wrongly)
        disk.write(MIB, block(3)[:2000] + bytes(2096))
        assert made.differing() == [256]
        patch.setattr(pump, "convert", convert)
        yield made


def refused_writes(disk: HeldDisk, patch: pytest.MonkeyPatch) -> Iterator[Epoch]:
    """The stream holds a write that the disk never took."""

    def with_one_more(fragments):
        piece = convert(fragments)
        if len(piece.payload) != 4096:
            return piece
        records = piece.records.copy()
        records["sector"] = 3 * MIB // 512
        return join([piece, replace(piece, records=records)])

    with epoch(disk, ProcessServerDouble({0: SIZE})) as made:
        until(lambda: made.run.consistent, "not consistent")
        patch.setattr(pump, "convert", with_one_more)
        disk.write(MIB, block(3))
        assert made.differing() == [768]
        patch.setattr(pump, "convert", convert)
        yield made


Fault = Callable[[HeldDisk, pytest.MonkeyPatch], Iterator[Epoch]]


@pytest.mark.parametrize("fault", [mended_above, stale_attempt, taken_as_landed, cut_within_sectors, refused_writes])
def test_a_proof_finds_what_an_old_fault_does_and_heals_it(monkeypatch: pytest.MonkeyPatch, fault: Fault) -> None:
    require_data_mode()
    monkeypatch.setattr(prover, "HOLD_SECONDS", 0.5)
    with held_disk(SIZE) as disk, contextlib.contextmanager(fault)(disk, monkeypatch) as made:
        wrong = made.differing()
        assert wrong, "the fault shows"
        found = made.prove()
        chunks = sorted({one * 4096 // CHUNK for one in wrong})
        assert sorted(one.chunk for one in made.server.differences) == chunks
        assert (found.differing, found.busy) == (len(chunks), 0)
        assert made.differing() == []
        assert (made.proving.coverage.differing, made.proving.coverage.differences) == (0, len(chunks))
        assert made.prove().differing == 0
