"""Find out when, by our clock, a machine captured the records that it sends, independently of the machine's wall clock.

A machine's monotonic clock is never set. Each request contains it. The smallest difference to ours in any request of
the last minute is the offset of the two clocks plus the shortest transfer time. With it, the moment of capture of any
record is known by our monotonic clock, however long the record waited in the machine. Wall clocks only decide the time
that a record gets:

- the machine's wall clock, while it is at most AHEAD ahead of ours (no delay can cause that) and at most BEHIND behind
  (a delay may cause that);
- otherwise ours: the machine's times are shifted by a *correction*.

The choice is made when a time base of the machine begins (its clock was set), and again if the two clocks have moved
apart since, for example because ours was set.
"""

from __future__ import annotations

from dataclasses import dataclass

from farshore.clock import SystemClock
from farshore.formats.batch import Batch
from farshore.model.clock_steps import LEAST_STEP, wall_clock_offset
from farshore.model.ports import Clock

AHEAD = 2_000_000_000
BEHIND = 10_000_000_000
_WINDOW = 30_000_000_000
"""ns. Two neighbouring windows are used: meanwhile the clocks drift apart by less than a millisecond."""


_OLDEST = 1 << 60
"""ns, 36 years: no batch has waited longer, whatever its sender says."""


@dataclass(frozen=True)
class Timing:
    """Of one request: ``arrived`` is our monotonic clock, in seconds, ``sent`` the machine's, in ns; 0: not given."""

    arrived: float
    sent: int


@dataclass(frozen=True)
class Placed:
    """``correction``: ns to add to the batch's times. ``captured``: when its last record was captured, in seconds of
    our monotonic clock; None: unknown, so the batch makes nothing more recent."""

    correction: int
    captured: float | None


class TimeAxis:
    """Of one stream. Used under the lane's turn, by one thread at a time."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._least: int | None = None
        self._least_before: int | None = None
        self._since = 0
        self._base: int | None = None
        """Of the machine's time base: its wall clock minus its monotonic clock, ns."""
        self.correction = 0
        """ns that are added to the machine's times now: our clock minus its, 0 if the two agree."""

    def place(self, batch: Batch, timing: Timing) -> Placed:
        """Find out when ``batch`` was captured, and the times to store."""
        last = batch.base_time + 1000 * int(batch.records["time_us"].max(initial=0))
        offset = wall_clock_offset(self._clock)
        arrived = int(timing.arrived * 1e9)
        if not batch.captured:
            # An agent from before `captured`: only its wall clock is known, and it is never trusted to be ahead.
            return Placed(0, (arrived - max(0, arrived + offset - last)) / 1e9)
        if not timing.sent:
            return Placed(self.correction, None)
        captured = min(arrived, max(arrived - _OLDEST, self._distance(arrived, timing.sent) + batch.captured))
        base = last - batch.captured
        new = self._base is None or abs(base - self._base) >= LEAST_STEP
        late = captured + offset - last  # by how much our clock is ahead of the machine's
        if new or not -AHEAD <= late - self.correction <= BEHIND:
            self._base, self.correction = base, 0 if -AHEAD <= late <= BEHIND else late
        return Placed(self.correction, captured / 1e9)

    def _distance(self, arrived: int, sent: int) -> int:
        """Return our monotonic clock minus the machine's, ns."""
        seen = arrived - sent
        if self._least is None or arrived - self._since > _WINDOW:
            self._least_before = self._least if arrived - self._since <= 2 * _WINDOW else None
            self._least, self._since = seen, arrived
        self._least = min(self._least, seen)
        return self._least if self._least_before is None else min(self._least, self._least_before)


def captured_at(time_ns: int, clock: Clock | None = None) -> float:
    """Return when a record with the time ``time_ns`` was captured, in seconds of our monotonic clock: after a restart
    its time is the only information left. A time in the future counts as captured now, and ages from now on."""
    clock = clock or SystemClock()
    return clock.monotonic() - max(0, clock.now() - time_ns) / 1e9
