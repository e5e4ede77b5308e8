"""Compare two lists of disks, and derive what the capture and the next base must do.

Unchanged disks keep their stream: the next epoch inherits them, except the blocks that were written between the two
epochs. A new disk, or one that returned on another device, is copied completely by hash; of one that grew, only the new
part. Ranges that are no longer excluded are read again; they count as dirty blocks.
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
    """``chunks``: what a healing epoch has to compare by hash besides copying dirty blocks, by disk."""

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
    """Disks whose excluded ranges have changed."""
    uncovered: Mapping[DiskNumber, Ranges] = field(default_factory=dict)
    """Blocks that were excluded and no longer are."""

    def __bool__(self) -> bool:
        return bool(self.added or self.removed or self.resized or self.left_out)

    @property
    def urgent(self) -> bool:
        """Return whether a running copy would read what no longer exists, or what must no longer be sent."""
        shrunk = any(after.disk.size < before.disk.size for before, after in self.resized)
        return bool(self.removed or shrunk)

    def apply(self, capture: Capture) -> Plan:
        """Update the capture, in bitmap mode and drained; return what the next epoch has to copy. Raises Refused."""
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
    """Return the changes. Disks in ``suspect`` count as removed and added again: their accounts do not add up."""
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
    """Return whether it is the same disk: one that was removed and one that replaced it may have the same name, device
    and size."""
    sequences = one.disk.sequence, other.disk.sequence
    swapped = all(sequences) and sequences[0] != sequences[1]
    return not swapped and (one.disk.name, one.disk.device) == (other.disk.name, other.disk.device)


def _new_chunks(before: ProtectedDisk, after: ProtectedDisk) -> ChunkRuns:
    """Return chunks that the parent cannot have: beyond the smaller size, including the one that it cuts through."""
    first = min(before.disk.size, after.disk.size) // CHUNK
    end = -(-after.disk.size // CHUNK)
    return ((first, end - first),) if end > first else ()


def _uncovered(before: Sequence[SectorRange], after: Sequence[SectorRange]) -> Ranges:
    """Return 4 KiB blocks with a sector that was excluded and no longer is."""
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
