"""Steps of a program's own wall clock: somebody, or something, set it.

Slewing moves the wall clock and the monotonic clock alike, so the difference between the two changes by steps alone
(and by a machine's sleep, after which the wall clock is ahead by as long as it slept).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional

from farshore.model.ports import Clock

LEAST_STEP = 500_000_000
"""ns: a smaller one is not worth a word; a leap second is one."""
_LOOKS, _LOOK_SECONDS = 5, 0.001


@dataclass(frozen=True)
class ClockStep:
    """``nanoseconds``: positive where the clock was set ahead. ``seen`` is by the monotonic clock, in seconds."""

    number: int
    """The how many-th since the program began, from 1."""
    nanoseconds: int
    seen: float


class ClockSteps:
    """Compares the two clocks each time it is asked. Used by one thread."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._offset = wall_clock_offset(clock)
        self.last: Optional[ClockStep] = None
        """The newest step; None: there was none."""

    def look(self) -> int:
        """Return by how many ns the clock was set since the last look, 0 if it was not. Notes it in ``last``."""
        offset = wall_clock_offset(self._clock)
        step = offset - self._offset
        if abs(step) < LEAST_STEP:
            return 0
        self._offset = offset
        number = 1 if self.last is None else self.last.number + 1
        self.last = ClockStep(number, step, self._clock.monotonic())
        return step


def wall_clock_offset(clock: Clock) -> int:
    """Return the nanoseconds from the monotonic clock to the wall clock. Asks again where we were kept off the
    processor between the two: a point would else bear a time after writes that it does not hold."""
    offset = 0
    for _ in range(_LOOKS):
        before = clock.monotonic()
        now = clock.now()
        offset = now - int(before * 1e9)
        if clock.monotonic() - before < _LOOK_SECONDS:
            break
    return offset
