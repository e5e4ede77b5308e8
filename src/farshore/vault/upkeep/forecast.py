"""What a retention would free, and where it would settle: an estimate from the indexes, without reading data.

Freed: what is neither needed by the states that it keeps nor by the merged layers that stand for them, whose size is
estimated from the blocks that they will hold. Settled: the journal of the last day goes on like this, for as long as
the policy says. Memory: as for merging the longest range (see merging).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from farshore.formats import vault_names
from farshore.formats.layer import ZERO_SOURCE, Table
from farshore.model.errors import NotFound
from farshore.model.identifiers import SECTOR, Epoch, Sequence
from farshore.model.policy import ReplicationPolicy
from farshore.vault.machine import MachineVault
from farshore.vault.reading.timeline import Timeline
from farshore.vault.stores.port import Listed
from farshore.vault.upkeep.collection import PolicyOf, needed
from farshore.vault.upkeep.merging import gather
from farshore.vault.upkeep.retention import plan_retention
from farshore.vault.vault import Vault

_SAMPLE = 16
_SECOND = 1_000_000_000
_DAY = 24 * 3600
_ENTRY = 13
"""Bytes of an index for each block."""


@dataclass
class Forecast:
    """Bytes of the machines' objects, chunks apart: now, after the retention was applied, and where it settles at the
    present rate of writing."""

    now: int = 0
    applied: int = 0
    settled: int = 0

    @property
    def freed(self) -> int:
        """Bytes freed; negative if merging writes more than it frees."""
        return self.now - self.applied


def forecast(vault: Vault, policy_of: PolicyOf) -> Forecast:
    """Estimate the effect of a retention over all machines. Raises the store's errors, Damaged."""
    found = Forecast()
    for machine_id in vault.machines():
        listed = {item.name: item for item in vault.store.list(vault_names.machine_folder(machine_id))}
        found.now += sum(item.size for item in listed.values())
        try:
            machine = vault.machine(machine_id)
        except NotFound:  # erased
            continue
        _machine(machine, listed, policy_of(machine_id), found)
    return found


def _machine(machine: MachineVault, listed: dict[str, Listed], policy: ReplicationPolicy, found: Forecast) -> None:
    timeline = machine.stored.timeline(with_condemned=True)
    points = machine.points.listed(timeline=timeline)
    plan = plan_retention(timeline, points, policy)
    alive = needed(machine, timeline, plan, listed, merged=True)
    applied = sum(item.size for name, item in listed.items() if name in alive)
    for number, epoch in plan.items():
        there = {(one.layer.first, one.layer.end) for one in timeline.data_layers(number)}
        applied += sum(_merged(machine, timeline, number, *span) for span in epoch.spans() if span not in there)
    found.applied += applied
    fixed = sum(item.size for name, item in listed.items() if name in alive and "/bases/" in name)
    found.settled += fixed + _settled(machine, timeline, policy)


def _settled(machine: MachineVault, timeline: Timeline, policy: ReplicationPolicy) -> int:
    """The journal of the hot window and one layer for each cold point, as the last hour and day of writing suggest."""
    newest = max(timeline.epochs, default=None)
    ends = [] if newest is None else list(timeline.ends(newest))
    if newest is None or len(ends) < 2:
        return 0
    last, until = ends[-1]
    hour, day = (_sequence(ends, until - seconds * _SECOND) for seconds in (3600, _DAY))
    journal, seconds = _stored(timeline, newest, day, last + 1), (until - dict(ends).get(day, ends[0][1])) / _SECOND
    rate = journal / max(1.0, seconds)
    hourly = _merged(machine, timeline, newest, hour + 1, last + 1) if hour < last else 0
    daily = _merged(machine, timeline, newest, day + 1, last + 1) if day < last else 0
    # A week rewrites no more than seven days do, and most of the time much less: the day's blocks again and again.
    days = policy.keep_daily + policy.keep_weekly
    # Whole hours leave the hot window together: between none and one more is there.
    return int(rate * (policy.hot_window + 3600)) + hourly * policy.keep_hourly + daily * days


def _sequence(ends: list[tuple[Sequence, int]], time: int) -> Sequence:
    """The last listed end by ``time``, else the first."""
    older = [sequence for sequence, moment in ends if moment <= time]
    return older[-1] if older else ends[0][0]


def _stored(timeline: Timeline, epoch: Epoch, begin: int, end: int) -> int:
    """Bytes of the segments that hold these records."""
    total = 0
    for stored in timeline.segments(epoch):
        total += stored.object.size if stored.segment.first < end and stored.segment.end > begin else 0
    return total


def _merged(machine: MachineVault, timeline: Timeline, epoch: Epoch, begin: int, end: int) -> int:
    """Bytes that merging these records would leave."""
    sources, indexes, _ = gather(machine, timeline.between(epoch, begin, end))
    raw = entries = 0
    for index in indexes.values():
        data = index.entries["source"] != ZERO_SOURCE
        raw += int(np.bitwise_count(index.entries["mask"][data]).sum(dtype=np.int64)) * SECTOR
        entries += len(index.entries)
    return int(raw * _ratio(machine, epoch, sources)) + _ENTRY * entries


def _ratio(machine: MachineVault, epoch: Epoch, sources: Table) -> float:
    """Stored to raw bytes, of some of the sources."""
    stored = raw = 0
    for row in np.linspace(0, len(sources) - 1, min(_SAMPLE, len(sources))).astype(int).tolist():
        opened = machine.stored.source(epoch, sources[row])
        stored, raw = stored + int(opened.packs["stored"].sum(dtype=np.int64)), raw + int(opened.starts[-1])
    return stored / raw if raw else 0.0
