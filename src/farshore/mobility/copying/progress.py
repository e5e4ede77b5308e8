"""The progress of a copy, and the remaining time at the pace of the last minute."""

from __future__ import annotations

import threading
from collections import deque
from typing import Deque, Tuple

from farshore.api_types.machines import Progress
from farshore.model.ports import Clock

_WINDOW_SECONDS = 60.0
_SAMPLE_SECONDS = 1.0


class CopyProgress:
    """Counted by the copying threads, read by the heartbeat. Bytes."""

    def __init__(self, clock: Clock, total: int) -> None:
        self._clock = clock
        self._samples: Deque[Tuple[float, int]] = deque([(clock.monotonic(), 0)])
        self._lock = threading.Lock()
        self._total = total
        self._done = 0
        self._sent = 0

    def add(self, *, done: int = 0, sent: int = 0) -> None:
        """``done``: covered, whether sent or not."""
        with self._lock:
            self._done += done
            self._sent += sent
            now = self._clock.monotonic()
            if now - self._samples[-1][0] >= _SAMPLE_SECONDS:
                self._samples.append((now, self._done))
            while len(self._samples) > 1 and now - self._samples[1][0] >= _WINDOW_SECONDS:
                self._samples.popleft()

    def again(self, size: int) -> None:
        """Add bytes that must be covered again."""
        with self._lock:
            self._done = max(0, self._total - size)
            self._samples = deque([(self._clock.monotonic(), self._done)])

    def report(self) -> Progress:
        """Return the progress for the heartbeat. The estimate grows while the copy stands still."""
        with self._lock:
            since, before = self._samples[0]
            elapsed, covered = self._clock.monotonic() - since, self._done - before
            left = (self._total - self._done) * elapsed / covered if covered else 0.0
            return Progress(total=self._total, done=self._done, sent=self._sent, remaining_seconds=max(0.0, left))
