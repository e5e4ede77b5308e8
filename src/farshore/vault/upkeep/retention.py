"""Which states stay: every one of the hot window, then hourly, daily and weekly points; and what must be merged for it.

Times are measured back from the newest point, not from today: where points stop coming, the last good ones stay.
A point of the future is no measure: the clock of its machine was wrong, and counts as having shown what the next point
in the stream says. Whole hours leave the hot window together, so that an hour is merged once.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterable
from dataclasses import dataclass, field

from farshore.model.errors import Damaged
from farshore.model.identifiers import Epoch
from farshore.model.point import PointKind, RecoveryPoint
from farshore.model.policy import ReplicationPolicy
from farshore.model.position import Position
from farshore.vault.machine import MachineVault
from farshore.vault.reading.leases import CLOCKS, Lease, LeaseKind
from farshore.vault.reading.timeline import Timeline
from farshore.vault.upkeep.merging import merge_range

_SECOND = 1_000_000_000
_HOUR = 3600 * _SECOND
_DAY = 24 * _HOUR
_WEEK = 7 * _DAY
_MONDAY = 3 * _DAY
"""1970 began on a Thursday: weeks begin on Mondays."""


@dataclass
class EpochPlan:
    """What stays of one epoch. ``kept`` are sequences of single states; from ``hot_from`` on every state stays, if it
    is not None."""

    kept: set[int] = field(default_factory=set)
    hot_from: int | None = None

    def spans(self) -> list[tuple[int, int]]:
        """Return the half-open ranges of records that may be merged, each into one layer."""
        ends = sorted(one + 1 for one in self.kept if one and (self.hot_from is None or one < self.hot_from))
        return list(zip([1, *ends[:-1]], ends, strict=True)) if ends else []

    def keeps(self, sequence: int) -> bool:
        """Return whether the state at ``sequence`` stays."""
        return sequence in self.kept or (self.hot_from is not None and sequence >= self.hot_from)


Plan = dict[Epoch, EpochPlan]
"""The epochs that stay. An epoch that is not in it goes as a whole."""


def plan_retention(
    timeline: Timeline,
    points: list[RecoveryPoint],
    policy: ReplicationPolicy,
    pins: Iterable[Position] = (),
    now: int | None = None,
) -> Plan:
    """Return what stays of a machine with these points, which are sorted by position; ``pins`` are states in use, and
    what was pinned in the vault stays beside them; ``now`` is ns since 1970 UTC. Raises Damaged if the epoch of a
    pinned state is lost: what it rests on cannot be told then, and anything may be that."""
    for pin in sorted(timeline.pinned):
        if pin.epoch not in timeline.epochs:
            raise Damaged(
                f"The pinned state {pin} of machine {timeline.machine} cannot be opened: the document of "
                "its epoch is lost. No point of the machine is deleted.",
                remedy="Restore the document from a copy of the vault, or unpin the state with `farshore vault unpin`.",
            )
    plan: Plan = {}
    points = believed(points, time.time_ns() if now is None else now)
    if points:
        hot_limit = (max(point.time for point in points) - policy.hot_window * _SECOND) // _HOUR * _HOUR
        cold = [point for point in points if point.time < hot_limit]
        for point in _chosen(cold, policy, hot_limit):
            plan.setdefault(point.position.epoch, EpochPlan()).kept.add(point.position.sequence)
        for point in points:
            if point.time >= hot_limit:
                epoch = plan.setdefault(point.position.epoch, EpochPlan())
                if epoch.hot_from is None:
                    epoch.hot_from = max((one for one in epoch.kept if one < point.position.sequence), default=0) + 1
    if timeline.epochs:
        # The stream is still being written there: what follows its newest kept state stays, whatever its clock says.
        newest = plan.setdefault(max(timeline.epochs), EpochPlan())
        if newest.hot_from is None:
            newest.hot_from = max(newest.kept, default=0) + 1
    for pin in {*pins, *timeline.pinned}:
        if pin.epoch in timeline.epochs:
            plan.setdefault(pin.epoch, EpochPlan()).kept.add(pin.sequence)
    for number in sorted(timeline.epochs, reverse=True):
        parent = timeline.epochs[number].parent
        if number in plan and parent is not None:
            plan.setdefault(parent.epoch, EpochPlan()).kept.add(parent.sequence)
    return plan


def leaving(machine: MachineVault, policy: ReplicationPolicy, pins: Iterable[Position] = ()) -> list[RecoveryPoint]:
    """Return the points of a machine that a policy does not keep, oldest first. Raises the store's errors, Damaged."""
    timeline = machine.stored.timeline(with_condemned=True)
    plan = plan_retention(timeline, machine.points.listed(timeline=timeline), policy, pins)
    # Of those that are there: what was condemned before has left already.
    return [
        point for point in machine.points.listed() if not _kept(plan.get(point.position.epoch), point.position.sequence)
    ]


def _kept(epoch: EpochPlan | None, sequence: int) -> bool:
    # The base is what an epoch that stays begins with, whatever else of it goes.
    return epoch is not None and (sequence == 0 or epoch.keeps(sequence))


def believed(points: list[RecoveryPoint], now: int) -> list[RecoveryPoint]:
    """Return the points, sorted by position, with times that can be: one of the future gets the time of the point after
    it, and where none follows, of the newest that can be. Where none can be, they stay as they are."""
    limit = now + CLOCKS
    following = max((point.time for point in points if point.time <= limit), default=None)
    if following is None:
        return points
    found = []
    for point in reversed(points):
        if point.time <= limit:
            following = point.time
            found.append(point)
        else:
            found.append(dataclasses.replace(point, time=following))
    return found[::-1]


def apply_retention(
    machine: MachineVault, policy: ReplicationPolicy, pins: Iterable[Position] = ()
) -> tuple[Plan, list[str]]:
    """Merge what may be merged; return the plan and the layers written. What is no longer needed is left to the
    collector. May be stopped and repeated. Raises the store's errors, Damaged."""
    timeline = machine.stored.timeline(with_condemned=True)
    plan = plan_retention(timeline, machine.points.listed(timeline=timeline), policy, pins)
    made: list[str] = []
    lease: Lease | None = None
    try:
        for number, epoch in sorted(plan.items()):
            there = {(one.layer.first, one.layer.end) for one in timeline.data_layers(number)}
            for span in (span for span in epoch.spans() if span not in there):
                lease = lease or machine.folder.lease(LeaseKind.MERGE)
                made.append(str(merge_range(machine, timeline, number, *span)))
    finally:
        if lease is not None:
            lease.release()
    return plan, made


def _chosen(cold: list[RecoveryPoint], policy: ReplicationPolicy, hot_limit: int) -> list[RecoveryPoint]:
    """The points behind the hot window that stay; the newest of them always does."""
    if not cold:
        return []
    chosen = {cold[-1].position: cold[-1]}
    longest = 0
    for length, shift, count in (
        (_HOUR, 0, policy.keep_hourly),
        (_DAY, 0, policy.keep_daily),
        (_WEEK, _MONDAY, policy.keep_weekly),
    ):
        longest = max(longest, length * count)
        best: dict[int, RecoveryPoint] = {}
        for point in cold:
            bucket = (point.time + shift) // length
            held = best.get(bucket)
            if held is None or _rank(point) >= _rank(held):
                best[bucket] = point
        for bucket in sorted(best)[max(0, len(best) - count) :] if count else []:
            chosen[best[bucket].position] = best[bucket]
    for point in cold:
        if point.name and point.time >= hot_limit - longest:
            chosen[point.position] = point
    return list(chosen.values())


def _rank(point: RecoveryPoint) -> int:
    return list(PointKind).index(point.kind)
