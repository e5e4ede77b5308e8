"""Writing a disk in place from one state to a later one: only what was written in between, and each of it once.

Two users: a disk that is at a known position is brought to a newer one by the journal between them (``changes``), and
one whose chunks were made what the base maps say gets what overlays and journals lay over them (``journal_of``). Either
way each source object is read once, in the order in which it is stored, so a random write costs its own bytes and not
those of its pack; what a later write hides is not read. Sectors are written, never read: what nobody wrote stays.

Everything may be repeated after a crash at any moment, towards the same state or a later one.

Memory: 21 bytes for each block written in the range, and one source object.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

from farshore.formats.batch import Buffer
from farshore.formats.layer import ZERO_SOURCE, Blocks, Table
from farshore.model.errors import Damaged, NotFound
from farshore.model.identifiers import BLOCK, CHUNK, SECTOR, DiskNumber, Epoch
from farshore.model.position import Position
from farshore.vault.machine import MachineVault
from farshore.vault.objects.epochs import EpochRecord
from farshore.vault.objects.opening import OpenedObject
from farshore.vault.reading.block_index import FULL, SECTORS, BlockIndex, Part, build_index
from farshore.vault.reading.blocks import Mask
from farshore.vault.reading.timeline import StoredRange, StoredSegment, Timeline
from farshore.vault.reading.view import DiskView
from farshore.vault.upkeep.merging import gather

Within = Callable[[Blocks], Mask]
"""Which of some chunks, given by number and sorted, are to be written."""
_BLOCKS_PER_CHUNK = CHUNK // BLOCK
_SLICE = 1 << 16
"""Chunks of a zeroed range that are looked at together: a range may be as long as a disk."""
_JOINED = 1 << 20
"""Bytes that are joined into one write where they are neighbours."""


class Target(Protocol):
    """What is written to."""

    def write(self, offset: int, *pieces: Buffer) -> int:
        """Write neighbouring pieces; return their bytes."""
        ...

    def zero(self, start: int, end: int) -> int:
        """Zero a range; return the bytes that took."""
        ...


@dataclass(frozen=True)
class Writes:
    """The last writes to some blocks over a range of the stream. ``source`` opens what an entry points into; ``within``
    leaves chunks out."""

    index: BlockIndex
    source: Callable[[int], OpenedObject]
    within: Within | None = None


@dataclass
class Changes:
    """What turns one state of a disk into a later one: first ``chunks`` (sorted) get what base copies in between gave
    them, as ``view.below`` shows it for the newest of these copies, which view.bases names; then ``writes`` follow, the
    newest first in the list."""

    writes: list[Writes] = field(default_factory=list)
    chunks: Blocks = field(default_factory=lambda: np.zeros(0, np.int64))


def changes(
    machine: MachineVault, timeline: Timeline, since: Position, until: Position
) -> dict[DiskNumber, Changes] | None:
    """Return, by disk, what was written between two positions; a disk that is not listed did not change.

    None where the vault cannot tell, and the disks have to be compared: ``until`` does not grow out of ``since``, the
    sizes of disks differ, or retention has merged across ``since``. Raises the store's errors.
    """
    try:
        chain = timeline.chain(until.epoch)
        ranges = _ranges(chain, since, until)
        if ranges is None or _sizes(timeline.record(since.epoch)) != _sizes(chain[0]):
            return None
        found = {disk.number: Changes() for disk in chain[0].disks}
        for record, begin, end in ranges:
            if begin < end:
                _add_journal(found, machine, record.epoch, timeline.between(record.epoch, begin, end))
            if record.epoch != since.epoch:
                _add_overlay(found, machine, timeline.overlay(record.epoch, record.base_end))
                _add_chunks(found, machine, record)
    except (Damaged, NotFound):
        # Merged or given up, or damaged: to compare tells these apart, for it needs no more than the later state.
        return None
    return {disk: one for disk, one in found.items() if one.writes or len(one.chunks)}


def journal_of(view: DiskView, chunks: Blocks, epochs: Blocks) -> list[Writes]:
    """Return the overlays and journals that lie over ``chunks`` (sorted), each of which holds the base of its epoch;
    the newest first."""
    return [
        Writes(level.whole(), level.filler.source, _listed(chunks[epochs <= level.epoch]))
        for level in view.entry_levels()
        if (epochs <= level.epoch).any()
    ]


def apply(writes: Sequence[Writes], size: int, target: Target) -> int:
    """Write all of it to a disk of ``size`` bytes; return the bytes written. Raises Damaged, NotFound, the store's
    errors and the target's."""
    done = 0
    for place in range(len(writes) - 1, -1, -1):
        one = writes[place]
        for start, end in zip(one.index.zero_starts.tolist(), one.index.zero_ends.tolist(), strict=True):
            for low, high in _runs(start, end, one.within):
                done += target.zero(low * BLOCK, min(high * BLOCK, size))
        done += _apply_entries(one, [newer.index for newer in writes[:place]], size, target)
    return done


def _ranges(
    chain: Sequence[EpochRecord], since: Position, until: Position
) -> list[tuple[EpochRecord, int, int]] | None:
    """The journal ranges ``[begin, end)`` between two positions, epoch by epoch, the newest first, or None if the later
    one does not grow out of the earlier one."""
    found: list[tuple[EpochRecord, int, int]] = []
    last = until.sequence
    for record in chain:
        if record.epoch == since.epoch:
            return [*found, (record, since.sequence + 1, last + 1)] if last >= since.sequence else None
        if record.parent is None:
            return None
        found.append((record, 1, last + 1))
        last = record.parent.sequence
    return None


def _sizes(record: EpochRecord) -> dict[DiskNumber, int]:
    return {disk.number: disk.size for disk in record.disks}


def _add_journal(
    found: dict[DiskNumber, Changes], machine: MachineVault, epoch: Epoch, pieces: list[StoredRange]
) -> None:
    sources, indexes, _ = gather(machine, pieces)
    for disk, index in indexes.items():
        _add_writes(found, disk, index, lambda row: machine.stored.source(epoch, sources[row]))


def _add_overlay(found: dict[DiskNumber, Changes], machine: MachineVault, pieces: list[StoredRange]) -> None:
    opened, parts = [], []
    for source, piece in enumerate(pieces):
        assert isinstance(piece.stored, StoredSegment)
        one, index = machine.stored.segment_index(piece.stored)
        opened.append(one)
        first = index.first_sequence
        parts.append(Part(source, index.records, piece.begin - first, piece.end - first))
    for disk in found:
        _add_writes(found, disk, build_index(parts, disk), opened.__getitem__)


def _add_writes(
    found: dict[DiskNumber, Changes], disk: DiskNumber, index: BlockIndex, source: Callable[[int], OpenedObject]
) -> None:
    one = found.get(disk)
    if one is not None and not index.empty:
        # The chunks so far were copied for younger epochs: what older ones wrote there is gone.
        one.writes.append(Writes(index, source, _but(one.chunks) if len(one.chunks) else None))


def _add_chunks(found: dict[DiskNumber, Changes], machine: MachineVault, record: EpochRecord) -> None:
    for disk in record.disks:
        if disk.mapped:
            own = machine.stored.base_map(record.epoch, disk.number, disk.map).own_chunks()
            found[disk.number].chunks = np.union1d(found[disk.number].chunks, own)


def _listed(chunks: Blocks) -> Within:
    """Only ``chunks``, which are sorted and at least one."""

    def within(asked: Blocks) -> Mask:
        mask: Mask = chunks[np.minimum(np.searchsorted(chunks, asked), len(chunks) - 1)] == asked
        return mask

    return within


def _but(chunks: Blocks) -> Within:
    """All but ``chunks``."""
    listed = _listed(chunks)
    return lambda asked: ~listed(asked)


def _runs(start: int, end: int, within: Within | None) -> Iterator[tuple[int, int]]:
    """The parts of the blocks ``[start, end)`` that are in chunks to be written."""
    if within is None:
        yield start, end
        return
    for first in range(start // _BLOCKS_PER_CHUNK, -(-end // _BLOCKS_PER_CHUNK), _SLICE):
        stop = min(first + _SLICE, -(-end // _BLOCKS_PER_CHUNK))
        mask = within(np.arange(first, stop))
        edges = np.flatnonzero(np.diff(np.concatenate(([False], mask, [False]))))
        for low, high in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True):
            yield (
                max(start, (first + low) * _BLOCKS_PER_CHUNK),
                min(end, (first + high) * _BLOCKS_PER_CHUNK),
            )


def _apply_entries(one: Writes, newer: Sequence[BlockIndex], size: int, target: Target) -> int:
    blocks, entries = one.index.blocks, one.index.entries
    keep = np.ones(len(blocks), np.bool_) if one.within is None else one.within(blocks // _BLOCKS_PER_CHUNK)
    for index in newer:
        keep &= ~_hidden_by(index, blocks)
    blocks, entries = blocks[keep], entries[keep]
    masks = _effective(blocks, entries)
    done = 0
    zero = entries["source"] == ZERO_SOURCE
    for place in np.flatnonzero(zero & (masks != 0)).tolist():
        for low, high in _sector_runs(int(masks[place])):
            begin = int(blocks[place]) * BLOCK
            done += target.zero(begin + low * SECTOR, min(begin + high * SECTOR, size))
    order = np.flatnonzero(~zero & (masks != 0))
    order = order[np.lexsort((entries["offset"][order], entries["source"][order]))]
    edges = np.flatnonzero(np.diff(entries["source"][order].astype(np.int64))) + 1
    for group in np.split(order, edges) if len(order) else []:
        opened = one.source(int(entries["source"][group[0]]))
        done += _write(target, size, _pieces(opened, blocks[group], entries[group], masks[group]))
    return done


def _hidden_by(index: BlockIndex, blocks: Blocks) -> Mask:
    """Which blocks a newer index sets as a whole."""
    whole = index.blocks[index.entries["mask"] == FULL]
    hidden: Mask = np.zeros(len(blocks), np.bool_)
    if len(whole):
        hidden |= whole[np.minimum(np.searchsorted(whole, blocks), len(whole) - 1)] == blocks
    if len(index.zero_starts):
        place = np.searchsorted(index.zero_starts, blocks, "right") - 1
        hidden |= (place >= 0) & (blocks < index.zero_ends[place])
    return hidden


def _effective(blocks: Blocks, entries: Table) -> npt.NDArray[np.uint8]:
    """The sectors of each entry that no later entry of its block sets: so entries may be written in any order."""
    masks = entries["mask"].copy()
    again = np.flatnonzero(blocks[1:] == blocks[:-1])
    later = 0
    for place in again[::-1].tolist():
        same = place + 1 < len(blocks) - 1 and blocks[place + 2] == blocks[place + 1]
        later = (later if same else 0) | int(entries["mask"][place + 1])
        masks[place] &= ~later & FULL
    return masks


def _sector_runs(mask: int) -> Iterator[tuple[int, int]]:
    sector = 0
    while sector < SECTORS:
        if mask >> sector & 1:
            begin = sector
            while sector < SECTORS and mask >> sector & 1:
                sector += 1
            yield begin, sector
        sector += 1


def _pieces(
    opened: OpenedObject, blocks: Blocks, entries: Table, masks: npt.NDArray[np.uint8]
) -> Iterator[tuple[int, npt.NDArray[np.uint8]]]:
    """The bytes of entries that lie in one object, in the order in which they are stored, as (offset on the disk,
    bytes). Each pack is read once."""
    begin = entries["offset"].astype(np.int64)
    end = begin + np.bitwise_count(entries["mask"]).astype(np.int64) * SECTOR
    first = np.searchsorted(opened.starts, begin, "right") - 1
    last = np.searchsorted(opened.starts, end, "left") - 1
    wanted = np.unique(np.concatenate((first, last))).tolist()
    packs = dict(zip(wanted, opened.read_packs(wanted), strict=True))
    for place in range(len(blocks)):
        number, within = int(first[place]), int(begin[place] - opened.starts[first[place]])
        length = int(end[place] - begin[place])
        piece = np.frombuffer(packs[number], np.uint8)[within : within + length]
        while len(piece) < length:
            number += 1
            more = np.frombuffer(packs[number], np.uint8)[: length - len(piece)]
            piece = np.concatenate((piece, more))
        offset, whole, mask = int(blocks[place]) * BLOCK, int(entries["mask"][place]), int(masks[place])
        if mask == whole == FULL:
            yield offset, piece
            continue
        lowest = (whole & -whole).bit_length() - 1
        for low, high in _sector_runs(mask):
            yield offset + low * SECTOR, piece[(low - lowest) * SECTOR : (high - lowest) * SECTOR]


def _write(target: Target, size: int, pieces: Iterator[tuple[int, npt.NDArray[np.uint8]]]) -> int:
    """Write pieces, neighbours together."""
    done, start, end = 0, 0, 0
    waiting: list[Buffer] = []
    for offset, piece in pieces:
        data = piece[: max(0, size - offset)]
        if waiting and (offset != end or end - start >= _JOINED):
            done += target.write(start, *waiting)
            waiting = []
        if not waiting:
            start = end = offset
        if len(data):
            waiting.append(data.data)
            end += len(data)
    if waiting:
        done += target.write(start, *waiting)
    return done
