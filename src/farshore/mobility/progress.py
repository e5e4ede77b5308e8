"""How far a copy has come."""

from __future__ import annotations

import threading

from farshore.api_types.machines import Progress
from farshore.model.ports import Clock


class CopyProgress:
    """Counted by the copying threads, read by the heartbeat. Bytes."""

    def __init__(self, clock: Clock, total: int) -> None:
        self._clock = clock
        self._started = clock.monotonic()
        self._lock = threading.Lock()
        self._total = total
        self._done = 0
        self._sent = 0

    def add(self, *, done: int = 0, sent: int = 0) -> None:
        """``done``: covered, whether sent or not."""
        with self._lock:
            self._done += done
            self._sent += sent

    def report(self) -> Progress:
        """For the heartbeat; the time that remains is estimated from the pace so far."""
        with self._lock:
            elapsed = self._clock.monotonic() - self._started
            left = (self._total - self._done) * elapsed / self._done if self._done else 0.0
            return Progress(total=self._total, done=self._done, sent=self._sent, remaining_seconds=max(0.0, left))
