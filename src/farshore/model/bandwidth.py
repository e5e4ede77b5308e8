"""Bandwidth limits: limits by the time of day, and the token bucket that enforces them.

A schedule is a list of texts that people write, such as ``Mon-Fri 08:00-18:00 20 Mbit/s``, and the time zone of its
times. The configuration server computes the limits for the next days (``rates``); agents and process servers follow
them by their own clocks, even if they are cut off.
"""

from __future__ import annotations

import datetime
import functools
import re
import threading
from bisect import bisect_right
from dataclasses import dataclass
from typing import FrozenSet, List, Sequence, Tuple
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from farshore.model.errors import Malformed
from farshore.model.ports import Clock

DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
HORIZON = datetime.timedelta(days=8)
"""How far ahead limits are sent: a server that is cut off for a week still follows its schedule."""
EXAMPLE = "Mon-Fri 08:00-18:00 20 Mbit/s"
_DAY = 24 * 60
_GRID = 15
"""Minutes; summer time begins and ends at a multiple of these."""
_TEXT = re.compile(
    r"(?:(?P<days>[A-Za-z]{3}(?:[-,][A-Za-z]{3})*)\s+)?"
    r"(?:(?P<start>\d{1,2}:\d\d)\s*-\s*(?P<end>\d{1,2}:\d\d)\s+)?"
    r"(?:(?P<amount>\d+(?:\.\d+)?)\s*(?P<unit>[kMG]?bit/s|[KMG]iB/s|B/s)|(?P<unlimited>unlimited))",
)
_UNITS = {
    "bit/s": 1 / 8, "kbit/s": 1e3 / 8, "Mbit/s": 1e6 / 8, "Gbit/s": 1e9 / 8,
    "B/s": 1, "KiB/s": 1 << 10, "MiB/s": 1 << 20, "GiB/s": 1 << 30,
}  # fmt: skip


@dataclass(frozen=True)
class Window:
    """Half-open, in minutes of the day; one that ends at or before its start continues into the next day. ``days``:
    those on which it begins, Monday is 0. ``limit`` is bytes a second, 0: none."""

    days: FrozenSet[int]
    start: int
    end: int
    limit: int

    def holds(self, day: int, minute: int) -> bool:
        """Return whether the minute of the weekday is in it."""
        if self.start < self.end:
            return day in self.days and self.start <= minute < self.end
        return (day in self.days and minute >= self.start) or ((day - 1) % 7 in self.days and minute < self.end)


def parse_window(text: str) -> Window:
    """Return a text such as ``Mon-Fri 08:00-18:00 20 Mbit/s``, ``Sat,Sun unlimited`` or ``1 MiB/s``. Raises
    Malformed."""
    found = _TEXT.fullmatch(text.strip())
    if found is None:
        raise _malformed(text, "it is not days, times and a rate")
    limit = 0 if found["unlimited"] else int(float(found["amount"]) * _UNITS[found["unit"]])
    if not found["unlimited"] and limit < 1:
        raise _malformed(text, "a rate is at least 1 byte a second, or `unlimited`")
    start, end = (_minute(text, found[name]) for name in ("start", "end")) if found["start"] else (0, _DAY)
    return Window(_days(text, found["days"]), start, end, limit)


def check_schedule(texts: Sequence[str], time_zone: str) -> None:
    """Raise Malformed if one of them cannot be understood."""
    for text in texts:
        parse_window(text)
    _zone(time_zone)


@functools.lru_cache(maxsize=256)
def _rates(texts: Tuple[str, ...], time_zone: str, minute: int) -> Tuple[Tuple[int, int], ...]:
    windows = [parse_window(text) for text in texts]
    zone = _zone(time_zone)
    begin = datetime.datetime.fromtimestamp(minute * 60, datetime.timezone.utc)
    moments = {begin}
    for step in range(int(HORIZON.total_seconds()) // (_GRID * 60)):
        moments.add(begin - datetime.timedelta(minutes=begin.minute % _GRID) + datetime.timedelta(minutes=_GRID * step))
    today = begin.astimezone(zone).replace(hour=0, minute=0)
    for day in range(-1, HORIZON.days + 1):
        for edge in {edge for window in windows for edge in (window.start, window.end)}:
            wall = (today + datetime.timedelta(days=day)).replace(tzinfo=None) + datetime.timedelta(minutes=edge)
            moments.add(wall.replace(tzinfo=zone).astimezone(datetime.timezone.utc))
    found: List[Tuple[int, int]] = []
    for moment in sorted(moment for moment in moments if moment >= begin):
        local = moment.astimezone(zone)
        day, clock = local.weekday(), local.hour * 60 + local.minute
        limit = next((window.limit for window in windows if window.holds(day, clock)), 0)
        if not found or found[-1][1] != limit:
            found.append((int(moment.timestamp()) * 1_000_000_000, limit))
    return tuple(found)


def rates(texts: Sequence[str], time_zone: str, now: int) -> Tuple[Tuple[int, int], ...]:
    """Return (since, bytes a second) of each stretch from ``now`` (ns since 1970 UTC) on, oldest first; the first
    begins no later than now. Empty if there is no schedule. Raises Malformed."""
    return _rates(tuple(texts), time_zone, now // 60_000_000_000) if texts else ()


def rate_at(stretches: Sequence[Tuple[int, int]], now: int) -> int:
    """Return the limit in bytes a second at a moment, 0: none. The last stretch has no end."""
    place = bisect_right([since for since, _ in stretches], now)
    return stretches[max(0, place - 1)][1] if stretches else 0


class Bandwidth:
    """A token bucket of one second, for several threads. ``fixed`` is bytes a second, 0: none; it and ``stretches``
    (see ``rates``) may be replaced at any time, and the lower of the two applies."""

    def __init__(self, clock: Clock, limit: int = 0) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._allowed = 0.0
        self._later = 0.0
        """Bytes sent that are paid for by what `wait_for` leaves."""
        self._last = clock.monotonic()
        self.fixed = limit
        self.stretches: Tuple[Tuple[int, int], ...] = ()

    @property
    def limit(self) -> int:
        """Bytes a second now, 0: none."""
        given = [limit for limit in (self.fixed, rate_at(self.stretches, self._clock.now())) if limit]
        return min(given, default=0)

    @limit.setter
    def limit(self, limit: int) -> None:
        self.fixed = limit

    def wait_for(self, size: int) -> float:
        """Take ``size`` bytes from the bucket; return the seconds to wait before sending them."""
        limit = self.limit
        with self._lock:
            self._fill(limit)
            if not limit:
                return 0.0
            self._allowed -= size
            return max(0.0, -self._allowed / limit)

    def take_behind(self, size: int) -> float:
        """Take ``size`` bytes to be sent now and return 0, if everything taken before has been waited for. Otherwise
        take nothing, and return the seconds after which that may be so. Such bytes are paid for by what `wait_for`
        leaves."""
        limit = self.limit
        with self._lock:
            self._fill(limit)
            behind = self._behind(limit)
            if limit and not behind:
                self._later += size
            return behind

    def behind(self) -> float:
        """Return the seconds until everything taken has been waited for."""
        limit = self.limit
        with self._lock:
            self._fill(limit)
            return self._behind(limit)

    def _fill(self, limit: int) -> None:
        now = self._clock.monotonic()
        self._allowed += (now - self._last) * limit
        self._last = now
        if not limit:
            self._allowed = self._later = 0.0
            return
        paid = min(self._later, max(0.0, self._allowed))
        self._later -= paid
        self._allowed = min(float(limit), self._allowed - paid)

    def _behind(self, limit: int) -> float:
        return (max(0.0, -self._allowed) + self._later) / limit if limit else 0.0


def _days(text: str, written: str) -> FrozenSet[int]:
    if not written:
        return frozenset(range(7))
    found = set()
    for part in written.split(","):
        ends = [DAYS.index(name.capitalize()) for name in part.split("-") if name.capitalize() in DAYS]
        if len(ends) != len(part.split("-")) or len(ends) > 2:
            raise _malformed(text, f"{part!r} is not a list of days")
        first, last = ends[0], ends[-1]
        found |= {day % 7 for day in range(first, last + 1 + (7 if last < first else 0))}
    return frozenset(found)


def _minute(text: str, written: str) -> int:
    hour, minute = (int(part) for part in written.split(":"))
    if minute > 59 or hour * 60 + minute > _DAY:
        raise _malformed(text, f"{written} is not a time of day")
    return hour * 60 + minute


def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise Malformed(f"{name!r} is not a known time zone.", remedy="Write it as Europe/Berlin or UTC.") from error


def _malformed(text: str, why: str) -> Malformed:
    return Malformed(f"{text!r} is not a bandwidth limit: {why}.", remedy=f"Write it as {EXAMPLE!r}.")
