"""The real clock."""

from __future__ import annotations

import datetime
import time

from farshore.model.ports import Clock


class SystemClock:
    """farshore.model.ports.Clock of this machine."""

    def now(self) -> int:
        """Nanoseconds since 1970 UTC."""
        return time.time_ns()

    def monotonic(self) -> float:
        """Seconds of a clock that never jumps."""
        return time.monotonic()


def utc(clock: Clock) -> datetime.datetime:
    """The clock's time as certificates want it."""
    return datetime.datetime.fromtimestamp(clock.now() / 1e9, datetime.UTC)
