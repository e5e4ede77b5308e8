"""Keep the batches that are not acknowledged yet, oldest first: in memory, or in the .hrl file once they must wait.

The pump puts batches in, the sender takes them out in order. While the server keeps up they stay in memory. Once it
cannot be reached, the oldest batch has waited for some seconds, or memory is full, all of them go to the file, and each
new one too until the file is empty again. So an agent that is killed during an outage leaves the whole unacknowledged
stream behind, and the next run sends it (replay.py). When the file is full, ``put`` raises NoSpace: the pump then
leaves the rest in the capture ring, which ends in bitmap mode, never in a gap. A batch stays in the file until it is
acknowledged.

The file always holds a run of batches without gaps, and batches that are only in memory are newer than all in it.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from itertools import islice
from typing import Deque, List, NamedTuple, Optional, Tuple

from farshore.mobility.stream.batches import EncodedBatch
from farshore.mobility.stream.spill import HrlFile
from farshore.model.errors import Damaged, NoSpace
from farshore.model.identifiers import Sequence

MEMORY_BYTES = 32 << 20
_KEPT_BYTES = 8 << 20
"""Maximum in memory, of batches that are in the file."""
PATIENCE_SECONDS = 3.0


class _Waiting(NamedTuple):
    batch: EncodedBatch
    spilled_end: int
    """Logical offset after the batch in the file; 0 for one that is not there."""
    since: float
    """When it was put in, by the monotonic clock."""


class Backlog:
    """Safe for one thread that puts and one that takes. ``spill`` None: memory only."""

    def __init__(self, spill: Optional[HrlFile], *, memory_bytes: int = MEMORY_BYTES) -> None:
        self._spill = spill
        self._memory_bytes = memory_bytes
        self._waiting: Deque[_Waiting] = deque()
        self._bytes = 0
        self._loaded = spill.end if spill else 0  # logical offset up to which the file's batches are in memory too
        self._changed = threading.Condition()
        self._closed = False
        self._held = False
        self.acknowledged = Sequence(1)
        """The next sequence that the server expects."""
        self.acknowledged_time = 0

    @property
    def last_acknowledged(self) -> Sequence:
        """The newest sequence that the server has; 0: none."""
        return Sequence(self.acknowledged - 1)

    @property
    def loaded(self) -> int:
        """Batches held in memory."""
        with self._changed:
            return len(self._waiting)

    @property
    def memory(self) -> int:
        """Bytes held in memory."""
        with self._changed:
            return self._bytes

    @property
    def spilled(self) -> int:
        """Bytes in the file that are not acknowledged."""
        with self._changed:
            return self._spill.used if self._spill else 0

    @property
    def oldest(self) -> Tuple[int, bool]:
        """Return when the oldest waiting batch was captured (ns of the monotonic clock), 0 if none waits; and whether
        it is in the file."""
        with self._changed:
            if not self._waiting:
                return 0, False
            return self._waiting[0].batch.captured, bool(self._waiting[0].spilled_end)

    @property
    def empty(self) -> bool:
        """Whether everything put in has been acknowledged."""
        with self._changed:
            return not self._waiting and not self._unloaded()

    def put(self, batch: EncodedBatch) -> None:
        """Add the newest batch. Raises NoSpace without taking it."""
        with self._changed:
            fits = self._bytes + batch.size <= self._memory_bytes
            if self._spill is None:
                if not fits and self._waiting:
                    raise NoSpace(
                        "The memory for batches that wait for the process server is full.",
                        remedy="Check the connection to the process server.",
                    )
                self._append(_Waiting(batch, 0, time.monotonic()))  # a larger one too, if it is alone
            elif fits and not self._unloaded() and not self._has_to_wait():
                self._append(_Waiting(batch, 0, time.monotonic()))
            else:
                try:
                    self._spill_all(self._spill)
                    self._spill.append(batch)
                except NoSpace:
                    if not fits or self._unloaded():
                        raise
                    self._append(_Waiting(batch, 0, time.monotonic()))
            self._changed.notify_all()

    def hold(self) -> None:
        """Move everything to the file, because the server cannot be reached, until something is acknowledged."""
        with self._changed:
            self._held = True
            if self._spill is not None:
                with contextlib.suppress(NoSpace):  # batches without space stay in memory, and new ones are refused
                    self._spill_all(self._spill)

    def head(self, timeout: float) -> Optional[EncodedBatch]:
        """Return the oldest batch without removing it, or None if there is none within ``timeout`` seconds or the
        backlog is closed.

        Raises Damaged if a batch cannot be read back from the file."""
        with self._changed:
            self._refill()
            if not self._waiting and not self._closed:
                self._changed.wait(timeout)
                self._refill()
            return self._waiting[0].batch if self._waiting and not self._closed else None

    def behind_head(self, count: int) -> List[EncodedBatch]:
        """Return up to ``count`` batches after the oldest that are already in memory, without removing them."""
        with self._changed:
            return [] if self._closed else [waiting.batch for waiting in islice(self._waiting, 1, 1 + count)]

    def acknowledge(self, expected: Sequence) -> List[EncodedBatch]:
        """Remove batches that the server has, those that end at or before its next sequence ``expected``; return them
        in order."""
        dropped: List[EncodedBatch] = []
        with self._changed:
            while self._waiting and self._waiting[0].batch.end <= expected:
                done = self._waiting.popleft()
                dropped.append(done.batch)
                self._bytes -= done.batch.size
                self.acknowledged_time = done.batch.time
                if done.spilled_end and self._spill is not None:
                    self._spill.advance(done.spilled_end)
            if expected > self.acknowledged:
                self._held = False
                self.acknowledged = expected
            self._changed.notify_all()
        return dropped

    def wait_acknowledged(self, sequence: Sequence, timeout: float) -> bool:
        """Wait until the server has everything up to and including ``sequence``."""
        with self._changed:
            return self._changed.wait_for(lambda: self._closed or self.acknowledged > sequence, timeout) and (
                self.acknowledged > sequence
            )

    def close(self) -> None:
        """Wake waiting threads; the file keeps its batches."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _append(self, waiting: _Waiting) -> None:
        self._waiting.append(waiting)
        self._bytes += waiting.batch.size

    def _has_to_wait(self) -> bool:
        return self._held or bool(self._waiting and time.monotonic() - self._waiting[0].since > PATIENCE_SECONDS)

    def _spill_all(self, spill: HrlFile) -> None:
        """Write everything to the file, and keep only the oldest in memory. Raises NoSpace if not all fits."""
        if self._unloaded():
            return  # then all of it is there
        alone: Deque[_Waiting] = deque()
        while self._waiting and not self._waiting[-1].spilled_end:
            alone.appendleft(self._waiting.pop())
        try:
            while alone:
                spill.append(alone[0].batch)
                self._loaded = spill.end
                self._waiting.append(alone.popleft()._replace(spilled_end=spill.end))
        finally:
            self._waiting.extend(alone)
        while len(self._waiting) > 1 and self._bytes > _KEPT_BYTES:
            self._bytes -= self._waiting.pop().batch.size
            self._loaded = self._waiting[-1].spilled_end

    def _unloaded(self) -> bool:
        return self._spill is not None and self._loaded < self._spill.end

    def _refill(self) -> None:
        while self._unloaded() and self._bytes < _KEPT_BYTES:
            assert self._spill is not None
            expected = self._waiting[-1].batch.end if self._waiting else None
            found = self._spill.read(self._loaded, expected)
            if found is None:
                raise Damaged(
                    f"{self._spill.path} cannot be read back, so the writes in it are missing from the stream.",
                    remedy="The machine resyncs automatically. Check the disk that the file is on.",
                )
            self._loaded = found[1]
            self._append(_Waiting(found[0], found[1], time.monotonic()))
