"""Limit the agent's speed: bytes a second, and a share of the processors if others need them.

Sending and copying ask before each request. The capture itself is never slowed down: it only moves what was written.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from pathlib import Path
from typing import Callable, Iterator, NamedTuple, Optional

from farshore.model.bandwidth import Bandwidth as Bandwidth
from farshore.model.ports import Clock

DEFAULT_SHARE = 0.10
_STAT = Path("/proc/stat")
_LOOK_SECONDS = 0.5
_RESERVE = 0.10
_SAVED_SECONDS = 1.0
_OWED_SECONDS = 5.0
_LEAST = 0.25
"""Share of the share: what a copy gets however much the stream uses."""
_URGENT = 4.0


class Use(NamedTuple):
    """Seconds: by the clock; of processor time that we used; of all processors' time, and of it idle (waiting for disks
    counts as idle)."""

    wall: float
    own: float
    total: float
    idle: float


class Courtesy:
    """Limits the agent to ``share`` of the machine's processor time, or to idle time, by making copies rest.

    A bucket of processor seconds: it fills at the allowed rate, all work of the agent empties it, and a copy rests
    until it is not empty. The allowed rate is the share, or what the other programs leave except a tenth of the
    machine; if they need more, it falls at each look, down to the share. The stream comes first: if it uses up the
    share, the copy still gets a quarter of it, so that it ends some day. A heal may take four times the share, because
    there are no new points until it is done. (No thread has a lower priority than another: the interpreter's lock would
    pass the delay on to all of them.)"""

    def __init__(
        self,
        clock: Clock,
        share: float = DEFAULT_SHARE,
        meter: Optional[Callable[[], Use]] = None,
        thread_seconds: Callable[[], float] = time.thread_time,
    ) -> None:
        """``meter`` and ``thread_seconds`` measure this process and the calling thread."""
        self._meter = meter or (lambda: measure(clock))
        self._thread_seconds = thread_seconds
        self._lock = threading.Lock()
        self._look = self._last = self._meter()
        self._credit = self._spare = self._copied = 0.0
        self.share = share

    def begin(self) -> None:
        """Begin a copy with its full share, because earlier processor use has no meaning.

        Heals do without: most are over before a look, and there are no new points until then."""
        with self._lock:
            self._look = self._last = self._meter()
            self._credit = self._spare = self._copied = 0.0

    @contextlib.contextmanager
    def copying(self) -> Iterator[None]:
        """Count the calling thread's work inside as a copy's."""
        before = self._thread_seconds()
        try:
            yield
        finally:
            used = self._thread_seconds() - before
            with self._lock:
                self._copied += used

    def pause(self, *, urgent: bool = False) -> float:
        """Return the seconds that the copy must rest before its next piece of work."""
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
            copied, self._copied = self._copied, 0.0
            rest = max(0.0, -self._credit / allowed)
            # Callers that do not mark their copying, as rounds do, have no stream that could use up the share.
            return min(rest, copied / (share * _LEAST * processors)) if copied else rest


def spare(before: Use, after: Use) -> float:
    """Return the share of the machine's processor time that the other programs leave to us, minus a reserve."""
    total = after.total - before.total
    if total <= 0:
        return 0.0
    return (after.idle - before.idle + after.own - before.own) / total - _RESERVE


def measure(clock: Clock) -> Use:
    """Return the processor times of this process and this machine now."""
    fields = [int(field) for field in _STAT.read_text(encoding="ascii").split("\n", 1)[0].split()[1:9]]
    ticks = os.sysconf("SC_CLK_TCK")
    idle = (fields[3] + fields[4]) / ticks
    return Use(clock.monotonic(), time.process_time(), sum(fields) / ticks, idle)
