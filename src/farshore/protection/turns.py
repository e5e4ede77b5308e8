"""Choose the machines for a round of upkeep: those that changed since their last turn; others seldom.

A turn costs some dozens of requests to the store for each machine, even if there is nothing to do. What upkeep depends
on is known here without any request: the catalog has each machine's epochs and policy, and the last journal position
that is more than marks. Kept in memory: after a start of the server, each machine has one turn.
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
    """A machine's state for upkeep. ``shape``: its epochs and its policy. ``written``: the last position with data.
    ``group``: seconds in which enough segments for a layer can arrive, at the rate at which they are stored."""

    shape: tuple[object, ...]
    written: int
    group: float


def standings(catalog: Catalog) -> dict[MachineId, Standing]:
    """Return the state of all machines that the catalog knows."""
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


class UpkeepTurns:
    """Of one kind of upkeep. ``every``: seconds between two turns of a machine that writes; ``idle``: of one without
    changes. Used by one thread; ``done`` may be called by another."""

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
        """When all machines in the vault were seen, including those that the catalog does not know."""

    def begin(self) -> bool:
        """Begin a round with the machines' present state; later writes count for the next round. Return whether any
        machine is due."""
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
        """Return whether the machine is due. One that the catalog does not know is due once a day."""
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
        """Record that a machine's upkeep succeeded. Others are due again in the next round."""
        with self._lock:
            self._looked[machine] = self._now.get(machine), self._clock.monotonic()

    def _all(self) -> set[MachineId]:
        with self._lock:
            return self._now.keys() | self._looked.keys()


def for_indexing(catalog: Catalog, clock: Clock) -> UpkeepTurns:
    """Return the turns for indexing. A machine that writes is due whenever a group of segments can be full. For one
    that does not, a segment an hour counts, and two groups are waited for, because a turn costs a dozen lists."""
    return UpkeepTurns(
        lambda: standings(catalog), clock, lambda standing: standing.group, idle=2 * Tiers().segments * HOUR
    )


def for_rebasing(catalog: Catalog, clock: Clock) -> UpkeepTurns:
    """Return the turns for rebasing. Only another epoch makes a chain of epochs longer, and that changes the shape."""
    return UpkeepTurns(lambda: standings(catalog), clock, lambda _standing: REBASED_ANYWAY, idle=REBASED_ANYWAY)


def for_thinning(catalog: Catalog, clock: Clock) -> UpkeepTurns:
    """Return the turns for retention. A machine that writes is due every hour; others are thinned while they are
    collected (see tending), which is once a day and so comes first."""
    return UpkeepTurns(lambda: standings(catalog), clock, lambda _standing: 0.9 * HOUR, idle=1.5 * DAY)
