"""Whole epochs in this process: real capture and the real agent over a disk whose writes the test holds, against a
process server double that keeps base and journal apart; and two schedules in which the copy once went wrong.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from tests.loopdisks import SCRATCH
from tests.scenarios.capture.held_disk import HeldDisk
from tests.scenarios.capture.replica import differing_blocks
from tests.unit.mobility.doubles import KEY, MACHINE, ProcessServerDouble
from tests.waiting import PATIENCE, until

from farshore.api_types.machines import EpochGrant, EpochKind
from farshore.clock import SystemClock
from farshore.mobility.capture import Capture
from farshore.mobility.copying.disk_reader import CopiedDisk
from farshore.mobility.proving.proving import Demand, Proving
from farshore.mobility.stream.epoch_run import EpochRun
from farshore.mobility.stream.recorded import RecordedSectors
from farshore.mobility.stream.running import Ended, EpochParts, Limits
from farshore.mobility.stream.throttle import Bandwidth, Courtesy
from farshore.model.identifiers import DiskNumber
from farshore.model.states import CaptureMode

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
    ends: list[Ended] = field(default_factory=list)

    @property
    def ended(self) -> Ended | None:
        """How it ended; None: it goes on."""
        return self.ends[0] if self.ends else None

    def differing(self) -> list[int]:
        """The blocks of the copy that differ once all is acknowledged."""
        until(lambda: self.run.consistent, "not consistent")
        last = self.run._pump.milestone()
        last.wait(PATIENCE)
        until(lambda: self.run.acknowledged >= last.sequence, "not acknowledged")
        return differing_blocks(self.server.state(0), self.disk.read())

    def prove(self) -> Demand:
        demand = self.proving.demand(whole=True)
        until(lambda: self.proving.demanded is not demand or self.ended, "the proof does not end")
        assert not self.ended, f"the epoch ended: {self.ended}"
        assert not demand.failed
        return demand


@contextlib.contextmanager
def epoch(
    disk: HeldDisk, server: ProcessServerDouble, *, ring: int | None = None, first: Callable[[], None] = lambda: None
) -> Iterator[Epoch]:
    """An epoch under way. ``first`` is called once the capture is attached, before the epoch begins."""
    clock = SystemClock()
    grant = EpochGrant(epoch=1, kind=EpochKind.INITIAL, process_server="https://localhost:1", hash_key=KEY.hex())
    copied = [CopiedDisk(NUMBER, disk.loop.device, SIZE)]
    limits = Limits(Bandwidth(clock), Courtesy(clock, 1.0))
    proving = Proving(None, clock)
    proving.pace = 0
    stop = threading.Event()
    with Capture({NUMBER: disk.disk}, ring_bytes=ring or RING, scratch=SCRATCH) as capture:
        first()
        parts = EpochParts(MACHINE, grant, copied, server, clock, limits, proving)
        made = EpochRun(parts, capture, None)
        whole = Epoch(disk, server, capture, made, proving)
        thread = threading.Thread(target=lambda: whole.ends.append(made.run(stop)))
        thread.start()
        try:
            yield whole
        finally:
            stop.set()
            thread.join(PATIENCE)
            assert not thread.is_alive()


@contextlib.contextmanager
def mending_in_flight(disk: HeldDisk, patch: pytest.MonkeyPatch, *, fault: bool) -> Iterator[Epoch]:
    """A missed block is read again while a newer write to it, which has a record, is in flight.

    ``fault``: the mended block lies above that record.
    """
    if fault:
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


@contextlib.contextmanager
def entered_twice(disk: HeldDisk, patch: pytest.MonkeyPatch, *, fault: bool) -> Iterator[Epoch]:
    """Data mode is entered again after a failed entry that had records.

    ``fault``: what was missed goes into the base, below those records.
    """

    def as_it_was(self, workers, stop):
        while True:
            self._pump._ended, self._pump._opening = False, True
            workers.remove(self._pump_worker)
            if self._enter(workers, stop):
                break
        self._overlay = self._dirty.blocks

    if fault:
        patch.setattr(EpochRun, "_enter_again", as_it_was)
    gap, entries, enter = Gate(), [], Capture.enter_data_mode

    def gated(self):
        entries.append(self)
        if len(entries) == 2:
            gap.wait()
        return enter(self)

    patch.setattr(Capture, "enter_data_mode", gated)
    server = ProcessServerDouble({0: SIZE})
    with epoch(disk, server, first=lambda: disk.hold(3 * MIB, block(9))) as made:
        until(lambda: made.capture.mode is CaptureMode.DATA, "data mode was not entered")
        disk.write(2 * MIB, block(1))
        until(lambda: made.run.captured >= 1, "the record was not drained")
        assert not made.run.consistent
        disk.write(0, os.urandom(MIB))  # more than the ring holds, while the held write is waited for
        assert gap.reached.wait(PATIENCE)
        disk.write(2 * MIB, block(2))
        gap.opened.set()
        until(lambda: len(entries) == 2 and made.capture.mode is CaptureMode.DATA, "not entered again")
        disk.release()
        yield made
