"""Detect when a program's own wall clock was set.

Slewing moves the wall clock and the monotonic clock alike, so the difference between the two changes only when the
clock is set (and by a machine's sleep, after which the wall clock is ahead by the duration of the sleep).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional

from farshore.model.ports import Clock

LEAST_STEP = 500_000_000
"""ns: a smaller change is ignored; a leap second is one second."""
_LOOKS, _LOOK_SECONDS = 5, 0.001


@dataclass(frozen=True)
class ClockStep:
    """``nanoseconds``: positive if the clock was set ahead. ``seen`` is by the monotonic clock, in seconds."""

    number: int
    """Its number since the program began, from 1."""
    nanoseconds: int
    seen: float


class ClockSteps:
    """Compares the two clocks at each call. Used by one thread."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._offset = wall_clock_offset(clock)
        self.last: Optional[ClockStep] = None
        """The newest step; None: there was none."""

    def look(self) -> int:
        """Return by how many ns the clock was set since the last call, 0 if it was not. Stores it in ``last``."""
        offset = wall_clock_offset(self._clock)
        step = offset - self._offset
        if abs(step) < LEAST_STEP:
            return 0
        self._offset = offset
        number = 1 if self.last is None else self.last.number + 1
        self.last = ClockStep(number, step, self._clock.monotonic())
        return step


def wall_clock_offset(clock: Clock) -> int:
    """Return the nanoseconds from the monotonic clock to the wall clock. Reads again if the thread lost the processor
    between the two reads: otherwise a point would have a later time than the writes that it contains."""
    offset = 0
    for _ in range(_LOOKS):
        before = clock.monotonic()
        now = clock.now()
        offset = now - int(before * 1e9)
        if clock.monotonic() - before < _LOOK_SECONDS:
            break
    return offset
