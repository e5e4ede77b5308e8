"""Limit how often somebody may do something: token buckets, in the memory of this server."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable

from farshore.model.ports import Clock

MOST_KEYS = 10_000
"""The keys that were used longest ago are dropped: memory does not grow with the number of strangers."""


class Quota:
    """For each key ``burst`` at once, then ``per_second`` more. Safe to use from several threads."""

    def __init__(self, clock: Clock, burst: float, per_second: float) -> None:
        self._clock = clock
        self._burst = burst
        self._per_second = per_second
        self._left: OrderedDict[Hashable, tuple[float, float]] = OrderedDict()
        self._lock = threading.Lock()

    def take(self, key: Hashable) -> float:
        """Take one; return 0, or the seconds until there is one."""
        with self._lock:
            left = self._refilled(key)
            wait = 0.0 if left >= 1 else (1 - left) / self._per_second
            self._note(key, left if wait else left - 1)
            return wait

    def wait(self, key: Hashable) -> float:
        """Return the wait that ``take`` would return, without taking anything."""
        with self._lock:
            left = self._refilled(key)
            return 0.0 if left >= 1 else (1 - left) / self._per_second

    def _refilled(self, key: Hashable) -> float:
        left, since = self._left.get(key, (self._burst, 0.0))
        return min(self._burst, left + (self._clock.monotonic() - since) * self._per_second)

    def _note(self, key: Hashable, left: float) -> None:
        self._left[key] = (left, self._clock.monotonic())
        self._left.move_to_end(key)
        while len(self._left) > MOST_KEYS:
            self._left.popitem(last=False)
