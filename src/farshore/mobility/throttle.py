"""How fast the agent may go: a bound on bytes a second, and a share of the processors where others want them.

Shipping and copying ask before each request. The capture itself is never slowed: it only moves what was written.
"""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from typing import Callable, NamedTuple, Optional

from farshore.model.bandwidth import Bandwidth as Bandwidth
from farshore.model.ports import Clock

DEFAULT_SHARE = 0.10
_STAT = Path("/proc/stat")
_LOOK_SECONDS = 0.5
_RESERVE = 0.10
_SAVED_SECONDS = 1.0
_OWED_SECONDS = 5.0
_LEAST = 0.08
"""Of the thread that hashes; reading and sending, in threads of their own, cost about twice as much again."""
_URGENT = 4.0


class Use(NamedTuple):
    """Seconds: by the clock; of processor time that we used, and of it this thread; of all processors' time, and of it
    idle (waiting for disks counts as idle)."""

    wall: float
    own: float
    thread: float
    total: float
    idle: float


class Courtesy:
    """Keeps the agent to ``share`` of the machine's processor time, or to what is idle, by making copies rest.

    A bucket of processor seconds: it fills at the pace allowed, all that the agent does empties it, and who copies
    rests until it is not empty. Allowed is the share, or what the other programs leave but for a tenth of the machine;
    where they want more, less is left at each look, down to the share. The stream comes first: where it uses the share
    up, the copy still gets a quarter of it, so that it ends some day. A heal may take four times the share, as there
    are no new points until it is done. (No thread has a lower priority than another: the interpreter's lock would hand
    it on to them all.)
    """

    def __init__(self, clock: Clock, share: float = DEFAULT_SHARE, meter: Optional[Callable[[], Use]] = None) -> None:
        self._meter = meter or (lambda: measure(clock))
        self._lock = threading.Lock()
        self._look = self._last = self._meter()
        self._credit = 0.0
        self._spare = 0.0
        self.share = share

    def pause(self, *, urgent: bool = False) -> float:
        """Seconds that the copying thread, which calls, is to rest before its next piece of work."""
        with self._lock:
            use = self._meter()
            before, self._last = self._last, use
            if use.wall - self._look.wall >= _LOOK_SECONDS:
                self._spare = spare(self._look, use)
                self._look = use
            processors = os.cpu_count() or 1
            share = max(0.001, self.share * (_URGENT if urgent else 1.0))
            allowed = max(share, self._spare) * processors
            self._credit += (use.wall - before.wall) * allowed - (use.own - before.own)
            self._credit = max(-_OWED_SECONDS * allowed, min(_SAVED_SECONDS * allowed, self._credit))
            most = max(0.0, use.thread - before.thread) / (share * _LEAST * processors)
            return min(max(0.0, -self._credit / allowed), most)


def spare(before: Use, after: Use) -> float:
    """What part of the machine's processor time the other programs leave to us, a reserve apart."""
    total = after.total - before.total
    if total <= 0:
        return 0.0
    return (after.idle - before.idle + after.own - before.own) / total - _RESERVE


def measure(clock: Clock) -> Use:
    """Now, for this process, this thread and this machine."""
    fields = [int(field) for field in _STAT.read_text(encoding="ascii").split("\n", 1)[0].split()[1:9]]
    ticks = os.sysconf("SC_CLK_TCK")
    idle = (fields[3] + fields[4]) / ticks
    return Use(clock.monotonic(), time.process_time(), time.thread_time(), sum(fields) / ticks, idle)
