"""The oracle of the capture tests: a reader thread that keeps every record, and a replica made of them.

The replica is the plainest possible: a copy of the disk's bytes, to which records are applied in ring order.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator, Mapping

import numpy as np
import numpy.typing as npt
from tests.loopdisks import SCRATCH, LoopDisk, read_direct
from tests.waiting import PATIENCE

from farshore.formats.record import RecordKind
from farshore.mobility.capture import Capture, Dirty
from farshore.mobility.capture.accounting import State
from farshore.mobility.capture.layout import RING_RECORD

BLOCK = 4096


class Recorder:
    """Drains the ring in a thread until stopped; ``until`` waits for a position."""

    def __init__(self, capture: Capture) -> None:
        self.capture = capture
        self._batches: list[tuple[int, npt.NDArray[np.void]]] = []
        self._stop = threading.Event()
        self._paused = threading.Event()
        self._drained = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="recorder")
        self._thread.start()

    def _work(self) -> None:
        while not self._stop.is_set():
            batch = None if self._paused.is_set() else self.capture.drain(1 << 22)
            if batch is None:
                self._stop.wait(0.001)
                continue
            with self._drained:
                self._batches.append((batch.start, batch.records.copy()))
                batch.release()
                self._drained.notify_all()

    def pause(self) -> None:
        self._paused.set()

    def resume(self) -> None:
        self._paused.clear()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()

    def records(self, start: int, end: int) -> npt.NDArray[np.void]:
        """The records of ring positions ``start`` to ``end``, waiting until they are there."""
        with self._drained:
            assert self._drained.wait_for(lambda: self._reached() >= end, timeout=60), "the ring is not drained"
            found = []
            for at, records in self._batches:
                first = max(0, (start - at) // RING_RECORD.itemsize)
                last = (end - at) // RING_RECORD.itemsize
                if last > 0 and first < len(records):
                    found.append(records[first:last])
        return np.concatenate(found) if found else np.empty(0, RING_RECORD)

    def _reached(self) -> int:
        if not self._batches:
            return 0
        at, records = self._batches[-1]
        return at + records.nbytes


@contextlib.contextmanager
def capturing(disks: Mapping[int, LoopDisk], *, ring_bytes: int = 64 << 20) -> Iterator[tuple[Capture, Recorder]]:
    """Capture of loop disks with a recorder; at the end the accounts must agree to the byte."""
    with Capture({n: d.disk for n, d in disks.items()}, ring_bytes=ring_bytes, scratch=SCRATCH) as capture:
        recorder = Recorder(capture)
        try:
            assert_accounts_agree(capture)  # from here on a gap would show
            yield capture, recorder
            assert_accounts_agree(capture)
        finally:
            recorder.stop()


def assert_accounts_agree(capture: Capture) -> None:
    """At the first instant without writes in flight, which comes soon after the work has ended."""
    deadline = time.monotonic() + PATIENCE
    verdicts = capture.account()
    while any(one.state is State.UNSETTLED for one in verdicts.values()) and time.monotonic() < deadline:
        time.sleep(0.1)
        verdicts = capture.account()
    assert {verdict.state for verdict in verdicts.values()} == {State.OK}, (verdicts, capture.counters())
    for counters in capture.counters().values():
        assert counters.unplaced == 0, counters
        assert counters.written >= counters.written_done + counters.written_refused, counters
        assert counters.discarded >= counters.discarded_done + counters.discarded_refused, counters


def apply(image: npt.NDArray[np.uint8], records: npt.NDArray[np.void], disk: int = 0) -> None:
    """Replay records of one disk over an image, in order."""
    for record in records[records["disk"] == disk]:
        start, length = int(record["sector"]) * 512, int(record["length"])
        if record["kind"] == RecordKind.WRITE:
            assert start // BLOCK == (start + length - 1) // BLOCK, "a record straddles two blocks"
            image[start : start + length] = record["data"][:length]
        elif record["kind"] in (RecordKind.ZERO, RecordKind.DISCARD):
            image[start : start + length] = 0


def copy_dirty(image: npt.NDArray[np.uint8], disk: LoopDisk, dirty: Dirty, number: int = 0) -> int:
    """Copy the blocks that a new epoch's base needs from the live disk; how many they were."""
    total = 0
    for start, count in dirty.blocks[number].tolist():
        at, length = start * BLOCK, min(count * BLOCK, len(image) - start * BLOCK)
        image[at : at + length] = read_direct(disk.device, at, length)
        total += count
    return total


def differing_blocks(a: npt.NDArray[np.uint8], b: npt.NDArray[np.uint8]) -> list[int]:
    """The numbers of the 4 KiB blocks that are not the same."""
    assert len(a) == len(b)
    return np.flatnonzero((a.reshape(-1, BLOCK) != b.reshape(-1, BLOCK)).any(axis=1)).tolist()
