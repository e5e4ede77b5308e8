"""This host's own clocks."""

from __future__ import annotations

import time


class SystemClock:
    """model.ports.Clock."""

    def now(self) -> int:
        """Nanoseconds since 1970 UTC."""
        return time.time_ns()

    def monotonic(self) -> float:
        """Seconds of a clock that never jumps."""
        return time.monotonic()
