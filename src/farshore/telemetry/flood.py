"""Keep a flood out of the log: repeating an action that causes a log message must not fill a disk.

Messages are counted by their text before values are inserted. Each may come in bursts, and continues at a slow rate;
omitted ones are counted, and the next one that passes contains the count.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import Callable, Dict, Tuple

BURST = 200
PER_SECOND = 1.0
_MOST_TEXTS = 1000

_Key = Tuple[str, int, str]


class Sparing(logging.Filter):
    """A filter for a handler. CRITICAL messages always pass."""

    def __init__(
        self, burst: int = BURST, per_second: float = PER_SECOND, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__()
        self._burst, self._pace, self._monotonic = burst, per_second, monotonic
        self._lock = threading.Lock()
        self._left: Dict[_Key, Tuple[float, float, int]] = {}
        """By message: how many may pass at once, since when, and how many were omitted."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether the record may pass; one that comes after omitted ones says how many."""
        if record.levelno >= logging.CRITICAL:
            return True
        key = (record.name, record.levelno, str(record.msg))
        with self._lock:
            now = self._monotonic()
            left, since, dropped = self._left.pop(key, (float(self._burst), now, 0))
            left = min(float(self._burst), left + (now - since) * self._pace)
            passes = left >= 1
            self._left[key] = (left - 1, now, 0) if passes else (left, now, dropped + 1)
            if len(self._left) > _MOST_TEXTS:
                del self._left[next(iter(self._left))]
        if passes and dropped:
            record.msg, record.args = f"{record.getMessage()} ({dropped} more of these were omitted.)", None
        return passes
