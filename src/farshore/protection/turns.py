"""Which machines a round of upkeep looks at: those that changed since they were last looked after, others seldom.

Looking costs requests to the store, a few dozen for each machine, whether there is anything to be done or not. What
matters for upkeep is known here without any: the catalog has each machine's epochs and policy, and up to where its
journal holds more than marks. Kept in memory: after a start of the server, each machine is looked at once.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass

from farshore.catalog import epochs, machines, policies
from farshore.catalog.database import Catalog
from farshore.model.cadence import cadence
from farshore.model.identifiers import MachineId
from farshore.model.policy import asked_rpo
from farshore.model.ports import Clock
from farshore.vault.upkeep.compaction import Tiers

DAY = 86400.0
HOUR = 3600.0
REBASED_ANYWAY = 30 * DAY


@dataclass(frozen=True)
class Standing:
    """How a machine stands. ``shape``: its epochs and its policy. ``written``: up to where it has written something.
    ``group``: seconds in which enough segments for a layer can come, as often as they are stored."""

    shape: tuple[object, ...]
    written: int
    group: float


def standings(catalog: Catalog) -> dict[MachineId, Standing]:
    """Return the standing of all machines that the catalog knows."""
    with catalog.reading() as tx:
        seals = {
            row.name: cadence(asked_rpo(row.crash_consistent_every, row.rpo_threshold)).seal
            for row in policies.every(tx)
        }
        retention = {
            row.name: (row.hot_window, row.keep_hourly, row.keep_daily, row.keep_weekly) for row in policies.every(tx)
        }
        shapes, written = epochs.shapes(tx)
        return {
            MachineId(machine): Standing(
                (shapes.get(machine), policy, retention[policy]),
                written.get(machine, 0),
                Tiers().segments * seals[policy],
            )
            for machine, _, policy, _ in machines.standing(tx)
        }


class Turns:
    """Of one kind of upkeep. ``every``: seconds between two looks at a machine that writes; ``idle``: at one that
    stands as before. Used by one thread; ``done`` may be called by another."""

    def __init__(
        self,
        standing: Callable[[], Mapping[MachineId, Standing]],
        clock: Clock,
        every: Callable[[Standing], float],
        idle: float = DAY,
    ) -> None:
        self._standing, self._clock, self._every, self._idle = standing, clock, every, idle
        self._lock = threading.Lock()
        self._looked: dict[MachineId, tuple[Standing | None, float]] = {}
        self._now: Mapping[MachineId, Standing] = {}
        self._all_seen: float | None = None
        """When all machines in the vault were seen, also those that the catalog does not know."""

    def begin(self) -> bool:
        """Begin a round with the machines' present standing. Later writes count for the next round. Whether it is
        anybody's turn."""
        self._now = self._standing()
        moment = self._clock.monotonic()
        if self._all_seen is None or moment - self._all_seen >= DAY:
            self._all_seen = moment
            return True
        return any(self.due(machine) for machine in self._all())

    def skip(self, there: Set[MachineId]) -> None:
        """Skip machines that the vault does not have."""
        for machine in self._all() - there:
            self.done(machine)

    def due(self, machine: MachineId) -> bool:
        """Return whether it is the machine's turn. One that the catalog does not know is looked at once a day."""
        before = self._looked.get(machine)
        if before is None:
            return True
        then, moment = before
        now, waited = self._now.get(machine), self._clock.monotonic() - moment
        if waited >= self._idle:
            return True
        if then is None or now is None or now.shape != then.shape:
            return now != then
        return now.written != then.written and waited >= self._every(now)

    def done(self, machine: MachineId) -> None:
        """Note that a machine was looked after without an error. Others are due again in the next round."""
        with self._lock:
            self._looked[machine] = self._now.get(machine), self._clock.monotonic()

    def _all(self) -> set[MachineId]:
        with self._lock:
            return self._now.keys() | self._looked.keys()


def for_indexing(catalog: Catalog, clock: Clock) -> Turns:
    """Return what indexing depends on. A machine that writes is due whenever a group of segments can be full; of one
    that does not, a segment an hour counts, and two groups are waited for: the look costs a dozen lists."""
    return Turns(lambda: standings(catalog), clock, lambda standing: standing.group, idle=2 * Tiers().segments * HOUR)


def for_rebasing(catalog: Catalog, clock: Clock) -> Turns:
    """Return what rebasing depends on. Only another epoch makes a chain of epochs longer, and that is another shape."""
    return Turns(lambda: standings(catalog), clock, lambda _standing: REBASED_ANYWAY, idle=REBASED_ANYWAY)


def for_thinning(catalog: Catalog, clock: Clock) -> Turns:
    """Return what retention depends on. A machine that writes is due every hour; others are thinned while they are
    collected (see tending), which is once a day and so comes first."""
    return Turns(lambda: standings(catalog), clock, lambda _standing: 0.9 * HOUR, idle=1.5 * DAY)
