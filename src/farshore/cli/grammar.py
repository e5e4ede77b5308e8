"""The grammar of option values: durations, times and disks. All such user input is parsed here.

A duration has a unit: ``30s``, ``15m``, ``24h``, ``7d``, ``2w``, ``1.5h``, ``1h30m``; 0 needs none. A time is absolute
(ISO 8601, UTC unless it names a zone, with any fraction) or a duration ago. Errors name the option and its bounds.
"""

from __future__ import annotations

import datetime
import re
import time
from collections.abc import Sequence
from decimal import Decimal
from typing import Protocol, TypeVar

from farshore.model.errors import Malformed, NotFound

NANOSECONDS = 1_000_000_000
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_NUMBER = r"[0-9]{1,12}(?:\.[0-9]{1,9})?"
_PART = re.compile(rf"({_NUMBER})\s*([smhdw])", re.ASCII)
_DURATION = re.compile(rf"(?:{_NUMBER}\s*[smhdw]\s*)+", re.ASCII)
_FRACTION = re.compile(r"([T ][0-9:]{8})[.,]([0-9]+)", re.ASCII)
_LATEST = (1 << 63) - 1
"""End of 2262, the largest time that 64 bits of ns can hold."""


def parse_duration(text: str, option: str = "", least: int = 0, most: int = 100 * 366 * 86400) -> int:
    """Parse a duration and return its seconds, within ``[least, most]``. Raises Malformed, naming the option and the
    bounds."""
    stated = text.strip()
    exact = _exact_seconds(stated)
    if exact is None:
        if re.fullmatch(_NUMBER, stated) and Decimal(stated):
            raise Malformed(
                f"{_of(option)}{text!r} has no unit.",
                remedy=f"Write {stated}s, {stated}m, {stated}h or {stated}d for seconds, minutes, hours or days.",
            )
        raise Malformed(f"{_of(option)}{text!r} is not a duration.", remedy="Write it as 90s, 15m, 24h, 7d or 1h30m.")
    if exact != int(exact):
        raise Malformed(
            f"{_of(option)}{text!r} is not a whole number of seconds.", remedy="Give whole seconds, such as 1s."
        )
    if not least <= exact <= most:
        raise Malformed(
            f"{_of(option)}{text!r} is out of range.", remedy=f"Give a value from {short(least)} to {short(most)}."
        )
    return int(exact)


def parse_time(text: str, option: str = "") -> int:
    """Parse a time and return ns since 1970 UTC: ``2026-01-31T12:00:00.5+01:00``, or ``5m`` for five minutes ago.
    Raises Malformed."""
    stated = text.strip()
    past = _exact_seconds(stated.removesuffix("ago").rstrip())
    found = _absolute(stated, text, option) if past is None else time.time_ns() - int(past * NANOSECONDS)
    if not 0 <= found <= _LATEST:
        raise Malformed(f"{_of(option)}{text!r} is out of range.", remedy="Give a time between 1970 and 2262.")
    return found


def _absolute(stated: str, text: str, option: str) -> int:
    upper = stated.upper()
    fraction = _FRACTION.search(upper)
    digits = fraction[2] if fraction else ""
    whole = upper.replace(fraction[0], fraction[1], 1) if fraction else upper
    try:
        moment = datetime.datetime.fromisoformat(whole)
    except ValueError as cause:
        hint = f" {stated} has no unit: write {stated}s or {stated}m." if re.fullmatch(_NUMBER, stated) else ""
        raise Malformed(
            f"{_of(option)}{text!r} is not a time.",
            remedy=f"Write it as 2026-01-31T12:00:00Z, or 5m for five minutes ago.{hint}",
        ) from cause
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=datetime.UTC)
    since = moment - datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
    seconds = since.days * 86400 + since.seconds
    return seconds * NANOSECONDS + since.microseconds * 1000 + int(digits.ljust(9, "0")[:9] or 0)


def _exact_seconds(text: str) -> Decimal | None:
    """Return the seconds of a duration, or None for any other text."""
    if re.fullmatch(r"0+(\.0+)?", text):
        return Decimal(0)
    if not _DURATION.fullmatch(text):
        return None
    return sum((Decimal(number) * UNITS[unit] for number, unit in _PART.findall(text)), Decimal(0))


def short(seconds: int) -> str:
    """Format seconds as an option takes them, in the largest unit that divides them: ``90s``, ``15m``, ``36600d``."""
    for unit in ("d", "h", "m"):
        if seconds and seconds % UNITS[unit] == 0:
            return f"{seconds // UNITS[unit]}{unit}"
    return f"{seconds}s" if seconds else "0"


def rfc3339(nanoseconds: int) -> str:
    """Format a time in UTC with all nine digits, so that it names exactly that moment; "" for 0."""
    if not nanoseconds:
        return ""
    seconds, rest = divmod(nanoseconds, NANOSECONDS)
    moment = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC) + datetime.timedelta(seconds=seconds)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{rest:09d}Z"


class Disk(Protocol):
    """A disk that can be found by number or name."""

    @property
    def number(self) -> int:
        """The disk's number in Farshore."""
        ...

    @property
    def name(self) -> str:
        """The disk's name on the machine."""
        ...


AnyDisk = TypeVar("AnyDisk", bound=Disk)


def find_disk(disks: Sequence[AnyDisk], wanted: str, option: str = "--disk") -> AnyDisk:
    """Find the disk with that number, name (``vda``) or device (``/dev/vda``). Raises NotFound, listing the disks."""
    stated = wanted.strip()
    name = stated.removeprefix("/dev/")
    for disk in disks:
        if (stated.isascii() and stated.isdecimal() and int(stated) == disk.number) or disk.name == name:
            return disk
    there = ", ".join(f"{disk.number} ({disk.name})" for disk in disks) or "none"
    raise NotFound(f"{_of(option)}the machine has no disk {wanted!r}.", remedy=f"Its disks are: {there}.")


def _of(option: str) -> str:
    return f"{option}: " if option else ""
