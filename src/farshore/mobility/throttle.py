"""How fast the agent may go: a bound on bytes a second, and stepping back when the machine is busy.

Shipping and copying ask before each request. The capture itself is never slowed: it only moves what was written.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import NamedTuple, Tuple

from farshore.model.bandwidth import Bandwidth as Bandwidth
from farshore.model.ports import Clock

_STAT = Path("/proc/stat")
_LOOK_SECONDS = 0.5
_OTHERS_BUSY = 0.60
_LONGEST_PAUSE = 0.5


class _Look(NamedTuple):
    wall: float
    own: float
    total: float
    idle: float


class Courtesy:
    """Keeps the copy's share of the machine's processors to ``share`` while others want them.

    While the other programs use less than three fifths of the machine, the copy may use what is left: they outweigh
    it by the service's CPUWeight. Otherwise each piece of work is followed by a pause that brings the agent's use down
    to the share. (No thread has a lower priority than another: the interpreter's lock would hand it on to them all.)
    """

    def __init__(self, clock: Clock, share: float) -> None:
        self._clock = clock
        self._last = self._look()
        self._lock = threading.Lock()
        self._pause = 0.0
        self.share = share

    def pause(self) -> float:
        """Seconds to rest before the next piece of work."""
        with self._lock:
            if self._clock.monotonic() - self._last.wall >= _LOOK_SECONDS:
                look = self._look()
                self._pause = pause_for(self._last, look, self.share, self._pause)
                self._last = look
            return self._pause

    def _look(self) -> _Look:
        total, idle = _processor_time()
        times = os.times()
        return _Look(self._clock.monotonic(), times.user + times.system, total, idle)


def pause_for(before: _Look, after: _Look, share: float, pause: float) -> float:
    """The next pause, given two looks (seconds: wall, our processor time, all processors' time, their idle time)."""
    total = after.total - before.total
    if total <= 0:
        return 0.0
    used = (after.own - before.own) / total
    others = 1 - (after.idle - before.idle) / total - used
    if others < _OTHERS_BUSY:
        return 0.0
    if used <= share:
        return pause * 0.7
    return min(_LONGEST_PAUSE, max(0.005, pause * 2))


def _processor_time() -> Tuple[float, float]:
    """Seconds of all processors since boot, and how many of them idle (waiting for disks counts as idle)."""
    fields = [int(field) for field in _STAT.read_text(encoding="ascii").split("\n", 1)[0].split()[1:9]]
    ticks = os.sysconf("SC_CLK_TCK")
    return sum(fields) / ticks, (fields[3] + fields[4]) / ticks
