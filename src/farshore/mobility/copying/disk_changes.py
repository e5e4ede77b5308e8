"""What became of the disks since the last look, and what follows from it for the capture and for the next base.

Disks that stayed as they were keep their stream: the next epoch inherits them, less the blocks that were written while
one epoch gave way to the next. A new disk, or one that came back on another device, is copied whole by hash; of one
that grew, what is new of it. Ranges that are no longer left out are read again; they count as dirty blocks.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import AbstractSet, Dict, List, Mapping, Sequence, Tuple

import numpy as np

from farshore.mobility.capture.bitmap import Ranges
from farshore.mobility.capture.capture import Capture, Dirty
from farshore.mobility.capture.extents import SectorRange
from farshore.mobility.capture.layout import BLOCK_SECTORS
from farshore.mobility.copying.protected_disks import ProtectedDisk
from farshore.model.identifiers import CHUNK, DiskNumber

ChunkRuns = Tuple[Tuple[int, int], ...]
"""(first chunk, chunks) of each run."""


@dataclass(frozen=True)
class Plan:
    """``chunks``: what a healing epoch has to compare by hash beside copying dirty blocks, by disk."""

    chunks: Mapping[DiskNumber, ChunkRuns] = field(default_factory=dict)

    def joined(self, other: Plan) -> Plan:
        """Combine both changes. Copying something twice does no harm."""
        numbers = {*self.chunks, *other.chunks}
        return Plan({one: (*self.chunks.get(one, ()), *other.chunks.get(one, ())) for one in numbers})

    def without(self, numbers: AbstractSet[DiskNumber]) -> Plan:
        """Return the changes without these disks."""
        return Plan({number: runs for number, runs in self.chunks.items() if number not in numbers})


@dataclass(frozen=True)
class DiskChanges:
    """From one list of protected disks to the next."""

    added: Tuple[ProtectedDisk, ...] = ()
    removed: Tuple[DiskNumber, ...] = ()
    resized: Tuple[Tuple[ProtectedDisk, ProtectedDisk], ...] = ()
    """Before and after."""
    left_out: Tuple[ProtectedDisk, ...] = ()
    """Disks whose excluded ranges are others now."""
    uncovered: Mapping[DiskNumber, Ranges] = field(default_factory=dict)
    """Blocks that were excluded and are not any more."""

    def __bool__(self) -> bool:
        return bool(self.added or self.removed or self.resized or self.left_out)

    @property
    def urgent(self) -> bool:
        """Whether a copy that is under way would read what is not there, or must not be sent, any more."""
        shrunk = any(after.disk.size < before.disk.size for before, after in self.resized)
        return bool(self.removed or shrunk)

    def apply(self, capture: Capture) -> Plan:
        """Have the capture, in bitmap mode and drained, follow; what the next epoch has to copy. Raises Refused."""
        for number in self.removed:
            capture.remove_disk(number)
        for one in self.added:
            capture.add_disk(one.number, one.disk)
        for _, after in self.resized:
            capture.grow_disk(after.number, after.disk)
        for one in self.left_out:
            capture.exclude(one.number, one.excluded)
        capture.give_back(Dirty(0, self.uncovered))
        return self.plan()

    def plan(self) -> Plan:
        """Return what the next epoch has to copy."""
        chunks: Dict[DiskNumber, ChunkRuns] = {one.number: ((0, -(-one.disk.size // CHUNK)),) for one in self.added}
        chunks.update({after.number: _new_chunks(before, after) for before, after in self.resized})
        return Plan({number: runs for number, runs in chunks.items() if runs})


def changes(
    before: Sequence[ProtectedDisk],
    after: Sequence[ProtectedDisk],
    suspect: AbstractSet[DiskNumber] = frozenset(),
) -> DiskChanges:
    """Return what happened in between. Disks in ``suspect`` count as gone and come back: their accounts do not add
    up."""
    old = {one.number: one for one in before}
    new = {one.number: one for one in after}
    stayed = [
        number for number in old if number in new and number not in suspect and _same_device(old[number], new[number])
    ]
    uncovered = {number: _uncovered(old[number].excluded, new[number].excluded) for number in stayed}
    added = tuple(new[number] for number in new if number not in stayed)
    others = tuple(new[number] for number in stayed if old[number].excluded != new[number].excluded)
    return DiskChanges(
        added=added,
        removed=tuple(number for number in old if number not in stayed),
        resized=tuple((old[n], new[n]) for n in stayed if old[n].disk.size != new[n].disk.size),
        left_out=(*others, *(one for one in added if one.excluded)),
        uncovered={number: ranges for number, ranges in uncovered.items() if len(ranges)},
    )


def _same_device(one: ProtectedDisk, other: ProtectedDisk) -> bool:
    """A disk that was pulled out and one that was put in its place since may have the same name, device and size."""
    sequences = one.disk.sequence, other.disk.sequence
    swapped = all(sequences) and sequences[0] != sequences[1]
    return not swapped and (one.disk.name, one.disk.device) == (other.disk.name, other.disk.device)


def _new_chunks(before: ProtectedDisk, after: ProtectedDisk) -> ChunkRuns:
    """Chunks that the parent cannot have: behind the smaller size, the one that it cuts through included."""
    first = min(before.disk.size, after.disk.size) // CHUNK
    end = -(-after.disk.size // CHUNK)
    return ((first, end - first),) if end > first else ()


def _uncovered(before: Sequence[SectorRange], after: Sequence[SectorRange]) -> Ranges:
    """4 KiB blocks with a sector that was excluded and is not any more."""
    found: List[Tuple[int, int]] = []
    for one in before:
        at = one.start
        for other in [other for other in after if other.end > one.start and other.start < one.end]:
            if other.start > at:
                found.append((at, other.start))
            at = max(at, other.end)
        if at < one.end:
            found.append((at, one.end))
    blocks = [(start // BLOCK_SECTORS, -(-end // BLOCK_SECTORS)) for start, end in found]
    return np.array([(start, end - start) for start, end in blocks], np.int64).reshape(-1, 2)
