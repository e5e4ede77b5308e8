"""Keep a flood of one message from filling the log's disk.

A filter for loggers whose messages strangers can cause: at most ``most`` records a minute pass; the first record of the
next minute says how many did not.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import Callable

MINUTE = 60.0


class FewEnough(logging.Filter):
    """Shared by the loggers that use it. Safe to use from several threads."""

    def __init__(self, most: int, now: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._most = most
        self._now = now
        self._lock = threading.Lock()
        self._began = now()
        self._passed = self._left_out = 0

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether the record may pass."""
        with self._lock:
            now = self._now()
            if now - self._began >= MINUTE:
                if self._left_out:
                    record.msg = f"{record.getMessage()} ({self._left_out} more like it were omitted.)"
                    record.args = ()
                self._began, self._passed, self._left_out = now, 0, 0
            if self._passed >= self._most:
                self._left_out += 1
                return False
            self._passed += 1
            return True
