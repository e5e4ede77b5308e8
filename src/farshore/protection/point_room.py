"""How many more points of a machine may be listed, without counting those that are.

To count walks all of a machine's points, and a report with new ones of a thousand machines comes every second. So what
was counted is remembered, with what was added since: that is never less than there are in fact, for this server. A
count is made where nothing is remembered, where that is too much, and once an hour, for other servers add as well.
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
    """ns; until then it is good."""


class PointRoom:
    """What is known of each machine. Safe to use from several threads. A transaction that is undone after it has asked
    leaves a number that is too high, which costs a count at worst."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: dict[str, _Known] = {}

    def take(self, tx: Transaction, wanted: Mapping[str, int], limit: int, now: int) -> dict[str, int]:
        """Return, by machine, how many of the ``wanted`` new points there is room for below ``limit``; those count as
        added."""
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
                # Not all at the same time: each machine has a moment of its own in the second half of the hour.
                until = now + REMEMBERED // 2 + hash(machine) % (REMEMBERED // 2)
                found[machine] = _Known(counted.get(machine, 0), until)
        room = {}
        with self._lock:
            for machine, known in found.items():
                assert known is not None
                room[machine] = max(0, min(wanted[machine], limit - known.most))
                self._known[machine] = _Known(known.most + room[machine], known.until)
        return room
