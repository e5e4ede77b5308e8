"""Compaction: indexes over many segments, so that opening a state reads few objects, whatever its journal's length.

Tier 0 indexes a group of neighbouring segments; each further tier merges neighbouring layers of the one below. Only
indexes are written, 13 bytes for each block that was written: the bytes stay in the segments, and every single write
of the hot window can still be opened. Lower tiers stay, so that any state finds a short cover.

Groups follow from the listing alone and layers are create-only: two compactors at once do the same work twice and
disturb nobody. A compactor that dies leaves nothing behind but finished layers. Memory: about 60 bytes for each entry
of a merge, of which there are at most MAXIMUM_ENTRIES.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from farshore.formats.layer import SOURCE, ZERO_SOURCE, Table
from farshore.formats.segment import SegmentIndex
from farshore.formats.vault_names import DATA_TIER, LayerName
from farshore.model.identifiers import DiskNumber, Epoch, Sequence
from farshore.vault.machine import MachineVault
from farshore.vault.objects.layers import Layer, seal_layer
from farshore.vault.reading.block_index import BlockIndex, Part, build_index, merge
from farshore.vault.reading.timeline import StoredLayer, StoredRange, StoredSegment, Timeline

MAXIMUM_ENTRIES = 4 << 20


@dataclass(frozen=True)
class Tiers:
    """How layers are grouped: segments in tier 0, layers of one tier in the next, entries in a layer."""

    segments: int = 64
    fan: int = 8
    entries: int = MAXIMUM_ENTRIES


def compact(machine: MachineVault, tiers: Tiers | None = None) -> list[LayerName]:
    """Write the layers that are due; return their names. Raises the store's errors, Damaged, WrongKey.

    May be stopped and repeated at any time.
    """
    rule = tiers or Tiers()
    made: list[LayerName] = []
    timeline = machine.stored.timeline()
    for epoch in sorted(timeline.epochs):
        made.extend(_index_segments(machine, epoch, group) for group in _segment_groups(timeline, epoch, rule))
    tier, known = 0, 0
    while True:
        if len(made) > known:  # else what was listed is all there is
            timeline, known = machine.stored.timeline(), len(made)
        if not any(stored.layer.tier == tier for stored in stored_layers(timeline)):
            return made
        for epoch in sorted(timeline.epochs):
            groups = _layer_groups(machine, timeline, epoch, tier, rule)
            made.extend(_merge_layers(machine, epoch, tier + 1, layers) for layers in groups)
        tier += 1


def _segment_groups(timeline: Timeline, epoch: Epoch, rule: Tiers) -> Iterator[list[StoredRange]]:
    """Full groups of segments that no layer of tier 0 has."""
    covered = [one.layer.end for one in timeline.layers(epoch) if one.layer.tier in (0, DATA_TIER)]
    start = max(covered, default=Sequence(1))
    run = timeline.behind(epoch, start)
    pieces = run.cut(start, run.end) if run.end > start else []
    group: list[StoredRange] = []
    for piece in pieces:
        group.append(piece)
        if len(group) == rule.segments or group[-1].end - group[0].begin >= rule.entries // rule.fan:
            yield group
            group = []


def _index_segments(machine: MachineVault, epoch: Epoch, group: list[StoredRange]) -> LayerName:
    opened: list[SegmentIndex] = []
    sources = np.zeros(len(group), SOURCE)
    for row, piece in enumerate(group):
        assert isinstance(piece.stored, StoredSegment)
        opened.append(machine.stored.segment_index(piece.stored)[1])
        name = piece.stored.segment
        for field, value in (("first", name.first), ("end", name.end), ("last_time", name.last_time)):
            sources[row][field] = value
        sources[row]["size"] = piece.stored.object.size
    parts = [
        Part(row, index.records, piece.begin - index.first_sequence, piece.end - index.first_sequence)
        for row, (piece, index) in enumerate(zip(group, opened, strict=True))
    ]
    disks = sorted({int(disk) for index in opened for disk in np.unique(index.records["disk"])})
    merged = {DiskNumber(disk): build_index(parts, DiskNumber(disk)) for disk in disks}
    times = int(sources["last_time"][-1])
    name_of_layer = LayerName(machine.id, epoch, 0, Sequence(group[0].begin), Sequence(group[-1].end), times)
    layer = seal_layer(machine.key, name_of_layer, sources, _decided(merged))
    machine.folder.store.put_if_absent(layer.name, layer.buffers)
    return name_of_layer


def _layer_groups(
    machine: MachineVault, timeline: Timeline, epoch: Epoch, tier: int, rule: Tiers
) -> Iterator[list[Layer]]:
    """Neighbouring layers of a tier, as many as belong together, that no layer of the next tier has."""
    above = [one.layer for one in timeline.layers(epoch) if one.layer.tier == tier + 1]
    mine = sorted(
        (
            one
            for one in timeline.layers(epoch)
            if one.layer.tier == tier
            and not any(higher.first <= one.layer.first and one.layer.end <= higher.end for higher in above)
        ),
        key=lambda one: one.layer.first,
    )
    group: list[Layer] = []
    entries = 0
    for stored in mine:
        layer = machine.stored.layer(stored)
        too_many = entries + layer.entries > rule.entries
        apart = bool(group) and group[-1].name.end != layer.name.first
        if too_many and len(group) > 1 and not apart:
            yield group
        if too_many or apart:
            group, entries = [], 0
        group.append(layer)
        entries += layer.entries
        if len(group) == rule.fan:
            yield group
            group, entries = [], 0


def _merge_layers(machine: MachineVault, epoch: Epoch, tier: int, group: list[Layer]) -> LayerName:
    last = group[-1].name
    name = LayerName(machine.id, epoch, tier, group[0].name.first, last.end, last.last_time)
    sources, merged = merge_layers(machine, group)
    layer = seal_layer(machine.key, name, sources, merged)
    machine.folder.store.put_if_absent(layer.name, layer.buffers)
    return name


def merge_layers(machine: MachineVault, group: list[Layer]) -> tuple[Table, dict[DiskNumber, BlockIndex]]:
    """Return the sources and the merged index of each disk of neighbouring layers, the oldest first."""
    sources = np.concatenate([layer.sources for layer in group])
    shifts = np.cumsum([0, *(len(layer.sources) for layer in group[:-1])]).tolist()
    merged: dict[DiskNumber, BlockIndex] = {}
    for disk in sorted({disk for layer in group for disk in layer.disks()}):
        parts = [layer.whole(disk, machine.cache) for layer in group]
        merged[disk] = merge([shifted(part, by) for part, by in zip(parts, shifts, strict=True)])
    return sources, _decided(merged)


def shifted(index: BlockIndex, by: int) -> BlockIndex:
    """Return the index with its source rows moved by ``by``."""
    if not by or not len(index.entries):
        return index
    entries = index.entries.copy()
    entries["source"] = np.where(entries["source"] == ZERO_SOURCE, ZERO_SOURCE, entries["source"] + np.uint32(by))
    return BlockIndex(index.blocks, entries, index.zero_starts, index.zero_ends)


def _decided(indexes: dict[DiskNumber, BlockIndex]) -> dict[DiskNumber, BlockIndex]:
    return {disk: index for disk, index in indexes.items() if not index.empty}


def stored_layers(timeline: Timeline) -> list[StoredLayer]:
    """Return every layer of a machine."""
    return [stored for epoch in sorted(timeline.epochs) for stored in timeline.layers(epoch)]
