"""This machine's clock, as farshore.model.ports.Clock."""

from __future__ import annotations

import datetime
import time

from farshore.model.ports import Clock


class SystemClock:
    """The operating system's clocks. The capture uses the same monotonic clock for the times of its records."""

    def now(self) -> int:
        """Return nanoseconds since 1970 UTC."""
        return time.time_ns()

    def monotonic(self) -> float:
        """Return seconds of a clock that never jumps."""
        return time.monotonic()


def utc(clock: Clock) -> datetime.datetime:
    """Return the clock's time in the form that certificates need."""
    return datetime.datetime.fromtimestamp(clock.now() / 1e9, datetime.timezone.utc)
