"""Write a disk of a recovery point to a destination: several steps at once, only those that its ledger lacks.

In: a source, a destination, a ledger. Out: a disk that is complete, durable and read back. Memory is limited by the
number of steps in progress. The destination is flushed every ``_FLUSH_BYTES``, and only then are the steps recorded in
the ledger, while others continue to be written. After a SIGKILL or a power cut at any moment the next call writes what
is missing.

At the end everything is read back from the destination and compared with the digests of the ledger. A step that the
disk did not keep is written again, twice at most. A destination whose remote side confirms each write (Vouching) is not
read back: it is asked what it holds, at the end and before an interrupted delivery continues.
"""

from __future__ import annotations

import logging
import mmap
import struct
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from blake3 import blake3

from farshore.delivery.ledger import DIGEST, ZERO, Ledger
from farshore.model.errors import Damaged
from farshore.model.ports import BlockSource, Destination, Vouching

log = logging.getLogger(__name__)

STEP = 4 << 20
_WORKERS = 3
_FLUSH_BYTES = 128 << 20
_NOTE_BYTES = 32 << 20
"""As _FLUSH_BYTES, for a destination whose writes are durable when they return: a note costs one sync of a small
file."""
_FLUSH_STEPS = 4096
"""Steps that are zero, which have no bytes."""
_ATTEMPTS = 3
_SENT = struct.Struct("<I")
_PLAN = 256 << 20
"""Bytes of the disk between two reports while the work is planned."""

Report = Callable[[str, int, int], None]
"""Receives the phase ("planned", "written", "read back" or "checked"), the bytes done and the bytes in all; may raise
to end the work."""
Result = TypeVar("Result")
Done = tuple[int, bytes, int]
"""A step, its digest and its bytes of data."""


def write_disk(
    source: BlockSource, destination: Destination, ledger: Ledger, report: Report, *, flush_bytes: int = 0
) -> None:
    """Write what the ledger lacks, read everything back, seal the ledger. ``flush_bytes``: bytes between two flushes;
    0: suitable for the destination. Raises what source, destination and ``report`` raise, and Damaged for a destination
    that does not keep what is written to it."""
    if not ledger.begun:
        if destination.blank:
            destination.zero(0, ledger.lading.size)  # a file may hold another point, from a ledger that is gone
            destination.flush()
        ledger.begin()
    elif isinstance(destination, Vouching):
        _strike(destination, ledger, _lost(destination, ledger))
    with _Work(source, destination, ledger, report, flush_bytes) as work:
        for _ in range(_ATTEMPTS):
            work.write_missing()
            lost = work.read_back()
            if not lost:
                ledger.seal()
                return
            log.warning("%d steps of %s were not kept and are written again.", len(lost), ledger.lading.destination)
            _strike(destination, ledger, lost)
        raise Damaged(
            f"{ledger.lading.destination} does not keep what is written to it: step {lost[0]} reads back differently.",
            remedy="Replace the disk that it is on, then fail over again.",
        )


class _Work:
    def __init__(
        self, source: BlockSource, destination: Destination, ledger: Ledger, report: Report, flush_bytes: int
    ) -> None:
        self._source, self._destination, self._ledger = source, destination, ledger
        self._vouching = destination if isinstance(destination, Vouching) else None
        self._report, self._workers = report, self._vouching.parallel if self._vouching else _WORKERS
        self._flush_bytes = flush_bytes or (_NOTE_BYTES if self._vouching else _FLUSH_BYTES)
        self._size, self._step = ledger.lading.size, ledger.lading.step
        self._own = threading.local()
        self._pool = ThreadPoolExecutor(self._workers, thread_name_prefix="deliver")
        self._data = self._plan()
        self._total = int(self._data.sum())

    def __enter__(self) -> _Work:
        return self

    def __exit__(self, *_: object) -> None:
        # Steps in progress write to the destination, which is closed next.
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _plan(self) -> npt.NDArray[np.int64]:
        """Return the bytes of data of each step, as far as the source's indexes show."""
        data = np.zeros(self._ledger.lading.steps, np.int64)
        for start in range(0, self._size, _PLAN):
            for extent in self._source.extents(start, min(_PLAN, self._size - start)):
                place, end = extent.offset, extent.offset + extent.length
                while not extent.zero and place < end:
                    step = place // self._step
                    stop = min(end, (step + 1) * self._step)
                    data[step] += stop - place
                    place = stop
            self._report("planned", min(start + _PLAN, self._size), self._size)
        return data

    def write_missing(self) -> None:
        """Write the steps that the ledger lacks, and record them there."""
        missing = np.flatnonzero(~self._ledger.digests().any(axis=1))
        written = self._total - int(self._data[missing].sum())
        self._destination.check_room(self._total - written)
        done: list[Done] = []
        waiting = 0
        self._report("written", written, self._total)
        for one in self._each(self._write, missing.tolist()):
            done.append(one)
            waiting += one[2]
            written += one[2]
            self._report("written", written, self._total)
            if waiting >= self._flush_bytes or len(done) >= _FLUSH_STEPS:
                self._note(done)
                done, waiting = [], 0
        self._note(done)

    def _note(self, done: list[Done]) -> None:
        if done:
            self._destination.flush()
            self._ledger.note((step, digest) for step, digest, _ in done)

    def _write(self, step: int) -> Done:
        start, length = self._bounds(step)
        blank, data = self._destination.blank, int(self._data[step])
        if not data:
            if not blank:
                self._destination.zero(start, length)
            return step, ZERO, 0
        buffer = self._buffer(length)
        extents = list(self._source.extents(start, length))
        first, last = (next(one for one in ordered if not one.zero) for ordered in (extents, extents[::-1]))
        low, high = first.offset - start, last.offset + last.length - start
        # One read for all: a scattered journal makes hundreds of extents, and a read of each costs ten times as much.
        whole = np.frombuffer(buffer, np.uint8)
        whole[:low] = 0
        whole[high:] = 0
        self._source.read_into(start + low, buffer[low:high])
        if self._vouching is not None:
            # The whole step, so that what is sent depends on its bytes alone: the destination's bytes are counted.
            sent = self._vouching.send(start, buffer)
            return step, _vouched(buffer, sent), data
        for extent in extents:
            if not extent.zero:
                place = extent.offset - start
                self._destination.write(extent.offset, buffer[place : place + extent.length])
            elif not blank:
                self._destination.zero(extent.offset, extent.length)
        return step, blake3(buffer).digest(), data

    def read_back(self) -> list[int]:
        """Return the steps whose data on the destination does not match the ledger's digests."""
        if self._vouching is not None:
            found = _lost(self._vouching, self._ledger)
            self._report("checked", self._total, self._total)
            return found
        digests = self._ledger.digests()
        lost: list[int] = []
        done = 0

        def look(step: int) -> tuple[int, bool]:
            return step, self._is_kept(step, digests[step].tobytes())

        for step, kept in self._each(look, range(len(digests))):
            if not kept:
                lost.append(step)
            done += int(self._data[step])
            self._report("read back", done, self._total)
        return lost

    def _is_kept(self, step: int, digest: bytes) -> bool:
        start, length = self._bounds(step)
        if digest == ZERO and all(extent.zero for extent in self._destination.extents(start, length)):
            return True
        buffer = self._buffer(length)
        self._destination.read_into(start, buffer)
        if digest == ZERO:
            return not np.frombuffer(buffer, np.uint8).any()
        return blake3(buffer).digest() == digest

    def _each(self, act: Callable[[int], Result], steps: Iterable[int]) -> Iterator[Result]:
        """Yield the results of ``act``, in order; only as many steps are in progress as keep the workers busy."""
        waiting: deque[Future[Result]] = deque()
        for step in steps:
            waiting.append(self._pool.submit(act, step))
            if len(waiting) > 2 * self._workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()

    def _bounds(self, step: int) -> tuple[int, int]:
        start = step * self._step
        return start, min(self._step, self._size - start)

    def _buffer(self, length: int) -> memoryview:
        """Return this worker's own buffer, aligned to a page for direct I/O."""
        if not hasattr(self._own, "buffer"):
            self._own.buffer = memoryview(mmap.mmap(-1, self._step))
        whole: memoryview = self._own.buffer
        return whole[:length]


def _vouched(buffer: memoryview, sent: int) -> bytes:
    """Return the ledger's entry for a step that the remote side confirms: it has the number of bytes that were sent."""
    return blake3(buffer).digest()[: DIGEST - _SENT.size] + _SENT.pack(sent)


def _strike(destination: Destination, ledger: Ledger, lost: list[int]) -> None:
    """Remove steps. A remote side that counts what it holds is made to hold nothing there."""
    ledger.strike(lost)
    if isinstance(destination, Vouching):
        step, size = ledger.lading.step, ledger.lading.size
        for one in lost:
            destination.zero(one * step, min(step, size - one * step))


def _lost(destination: Vouching, ledger: Ledger) -> list[int]:
    """Return the recorded steps of which the destination holds another number of bytes than were sent."""
    destination.look()
    digests, lading = ledger.digests(), ledger.lading
    found = []
    for step in np.flatnonzero(digests.any(axis=1)).tolist():
        digest, start = digests[step].tobytes(), step * lading.step
        sent = 0 if digest == ZERO else _SENT.unpack(digest[-_SENT.size :])[0]
        if destination.holds(start, min(lading.step, lading.size - start)) != sent:
            found.append(step)
    return found
