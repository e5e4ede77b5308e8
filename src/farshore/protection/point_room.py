"""Computes how many more points of a machine may be listed, without counting the listed ones.

A count walks over all of a machine's points, and a report with new points of a thousand machines arrives every second.
So the last count is remembered, with the points added since: for this server that is never too low. Points are counted
if nothing is remembered, if the remembered number is too high, and once an hour, because other servers add points too.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass

from farshore.catalog import points
from farshore.catalog.database import Transaction

SECOND = 1_000_000_000
REMEMBERED = 3600 * SECOND


@dataclass(frozen=True)
class _Known:
    most: int
    until: int
    """ns for which a count is valid."""


class PointRoom:
    """The remembered numbers of all machines. Safe to use from several threads. A transaction that is rolled back
    leaves a number that is too high, which costs at most another count."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: dict[str, _Known] = {}

    def take(self, tx: Transaction, wanted: Mapping[str, int], limit: int, now: int) -> dict[str, int]:
        """Return, by machine, how many of the ``wanted`` new points fit below ``limit``; they count as added."""
        with self._lock:
            found = {machine: self._known.get(machine) for machine in wanted}
        unsure = [
            machine
            for machine, known in found.items()
            if known is None or known.most + wanted[machine] > limit or not 0 < known.until - now <= REMEMBERED
        ]
        if unsure:
            counted = points.counts(tx, unsure)
            for machine in unsure:
                # Not all at the same time: each machine has its own moment in the second half of the hour.
                until = now + REMEMBERED // 2 + hash(machine) % (REMEMBERED // 2)
                found[machine] = _Known(counted.get(machine, 0), until)
        room = {}
        with self._lock:
            for machine, known in found.items():
                assert known is not None
                room[machine] = max(0, min(wanted[machine], limit - known.most))
                self._known[machine] = _Known(known.most + room[machine], known.until)
        return room
