"""Choose the machines that the watch must judge in a round, so that it need not read all of them.

In: the data of each machine that seldom changes, read in each round from one index. A machine is judged if its row
holds something that may be a problem whatever the time (``notable``), or if its heartbeat or its newest point is too
old. For the latter, the moment is kept at which they will be too old if nothing arrives; only then is the catalog asked
whether something arrived. So a healthy machine is read about every 25 seconds, and one with a problem in each round:
its alert begins and ends as if all machines were read.

Relies on: times in the catalog never decrease, except when a clock is set. Our own watch reports that (``forget``); for
another server's step, every machine is read within ``ASK_EVERY`` anyway. There is no index on the times: see the note
at farshore.catalog.tables.MachineRow.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from farshore.catalog import machines
from farshore.catalog.database import Transaction
from farshore.catalog.machines import Times
from farshore.catalog.tables import PolicyRow
from farshore.model.ports import Clock
from farshore.protection.watch import AGENT_SILENT_AFTER, LIVE, SECOND, WATCHED

ASK_EVERY = 30.0
"""Seconds by the monotonic clock."""


class _Known(NamedTuple):
    state: str
    policy: str
    due: int
    """ns, wall clock: from then on its times may be too old."""
    ask: float
    """s, monotonic clock."""


class Attention:
    """Used by one thread, in each round of the watch."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._known: dict[str, _Known] = {}
        self._thresholds: dict[str, int] = {}

    def forget(self) -> None:
        """Read all machines in the next round, because the catalog's times were moved."""
        self._known = {}

    def choose(self, tx: Transaction, policies: Sequence[PolicyRow], now: int) -> set[str]:
        """Return the ids of the machines that must be judged; ``now`` in ns."""
        thresholds = {policy.name: policy.rpo_threshold * SECOND for policy in policies}
        before = self._known if thresholds == self._thresholds else {}
        moment = self._clock.monotonic()
        known: dict[str, _Known] = {}
        asked: dict[str, tuple[str, str]] = {}
        chosen: set[str] = set()
        for machine, state, policy, notable in machines.standing(tx):
            if notable:
                chosen.add(machine)
            if state not in LIVE:
                continue
            was = before.get(machine)
            if was is not None and now < was.due and moment < was.ask and state == was.state and policy == was.policy:
                known[machine] = was
            else:
                asked[machine] = state, policy
        for machine, times in machines.times(tx, asked).items():
            state, policy = asked[machine]
            due = _due(state, times, thresholds[policy], now)
            if due < now:
                chosen.add(machine)
            known[machine] = _Known(state, policy, due, moment + ASK_EVERY)
        self._known, self._thresholds = known, thresholds
        return chosen


def _due(state: str, times: Times, threshold: int, now: int) -> int:
    """Return when a time of the machine will be too old, in ns. A time that was never set may get any value: check
    again soon."""
    silent = times.last_seen + AGENT_SILENT_AFTER if times.last_seen else now
    if state not in WATCHED:
        return silent
    return min(silent, times.newest_point_time + threshold if times.newest_point_time else now)
