"""Which record decides each block of a disk: the index over one epoch's overlay and journal, in numpy.

Writes become entries of one 4 KiB block each, with a mask of the 512-byte sectors that they set. Entries hidden by a
later whole-block entry are dropped; long zeroed ranges stay ranges. Memory: 21 bytes an entry kept, about three times
that while building.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from farshore.formats.layer import ENTRY, ZERO_SOURCE, Blocks
from farshore.formats.layer import Table as Entries
from farshore.formats.record import RecordKind, Records, payload_offsets
from farshore.model.identifiers import BLOCK, SECTOR, DiskNumber

SECTORS = BLOCK // SECTOR
FULL = 0xFF
_LONG_RANGE = 64


@dataclass(frozen=True)
class BlockIndex:
    """Entries sorted by block and, within a block, by time. ``zero_starts``/``zero_ends`` are half-open block ranges,
    sorted and disjoint, older than every entry inside them."""

    blocks: Blocks
    entries: Entries
    zero_starts: Blocks
    zero_ends: Blocks

    @property
    def empty(self) -> bool:
        """Whether it decides nothing."""
        return not len(self.blocks) and not len(self.zero_starts)

    def entries_of(self, first: int, count: int) -> tuple[Blocks, Entries]:
        """Return the entries of the blocks ``[first, first + count)``, and those blocks."""
        low, high = np.searchsorted(self.blocks, (first, first + count))
        return self.blocks[low:high], self.entries[low:high]

    def zeroed(self, first: int, count: int) -> list[tuple[int, int]]:
        """Return the zeroed ranges within ``[first, first + count)``, clipped to it."""
        low = int(np.searchsorted(self.zero_ends, first, "right"))
        high = int(np.searchsorted(self.zero_starts, first + count, "left"))
        return [
            (max(int(self.zero_starts[place]), first), min(int(self.zero_ends[place]), first + count))
            for place in range(low, high)
        ]


@dataclass(frozen=True)
class Part:
    """Records ``[begin, end)`` of a segment's table, in stream order after the parts before it."""

    source: int
    records: Records
    begin: int
    end: int


def build_index(parts: Sequence[Part], disk: DiskNumber) -> BlockIndex:
    """Return the index of one disk over all parts."""
    pieces: list[_Piece] = []
    ranges: list[tuple[int, int, int]] = []
    order = 0
    for part in parts:
        pieces.append(_expand(part, disk, order, ranges))
        order += part.end - part.begin
    return _resolve(pieces, ranges)


def merge(indexes: Sequence[BlockIndex]) -> BlockIndex:
    """Return one index that decides what all of them do together, the oldest first; their sources must be of one
    table."""
    pieces: list[_Piece] = []
    ranges: list[tuple[int, int, int]] = []
    for place, index in enumerate(indexes):
        order = np.full(len(index.zero_starts), 2 * place).tolist()
        ranges.extend(zip(index.zero_starts.tolist(), index.zero_ends.tolist(), order, strict=True))
        pieces.append((index.blocks, index.entries, np.full(len(index.blocks), 2 * place + 1)))
    return _resolve(pieces, ranges)


_Piece = tuple[Blocks, Entries, npt.NDArray[np.int64]]
"""Blocks, their entries, and when: entries with a higher number are newer; pieces come in order."""


def _resolve(pieces: list[_Piece], ranges: list[tuple[int, int, int]]) -> BlockIndex:
    pieces = [piece for piece in pieces if len(piece[0])]
    starts, ends, painted = _paint(ranges)
    if not pieces:
        return BlockIndex(np.zeros(0, np.int64), np.zeros(0, ENTRY), starts, ends)
    blocks = np.concatenate([piece[0] for piece in pieces])
    entries = np.concatenate([piece[1] for piece in pieces])
    if len(starts):
        when = np.concatenate([piece[2] for piece in pieces])
        place = np.searchsorted(starts, blocks, "right") - 1
        inside = (place >= 0) & (blocks < ends[place])
        keep = ~inside | (when > painted[place])
        blocks, entries = blocks[keep], entries[keep]
    if not len(blocks):
        return BlockIndex(blocks, entries, starts, ends)
    return _last_wins(blocks, entries, starts, ends)


def _expand(
    part: Part, disk: DiskNumber, order: int, ranges: list[tuple[int, int, int]]
) -> tuple[Blocks, Entries, npt.NDArray[np.int64]]:
    """One entry for each block that a record touches; long zeroed ranges go to ``ranges`` as (start, end, order)."""
    chosen = part.records[part.begin : part.end]
    kind = chosen["kind"]
    wanted = (chosen["disk"] == disk) & (kind <= RecordKind.DISCARD) & (chosen["sectors"] > 0)
    places = np.flatnonzero(wanted)
    sector = chosen["sector"][places].astype(np.int64)
    end = sector + chosen["sectors"][places]
    zero = kind[places] != RecordKind.WRITE
    offset = payload_offsets(part.records)[part.begin : part.end][places]
    when = places + order
    long = zero & (end - sector > _LONG_RANGE * SECTORS)
    if long.any():
        inner_start, inner_end = -(-sector[long] // SECTORS), end[long] // SECTORS
        ranges.extend(zip(inner_start.tolist(), inner_end.tolist(), when[long].tolist(), strict=True))
        heads = (sector[long], inner_start * SECTORS, when[long])
        tails = (inner_end * SECTORS, end[long], when[long])
        edge = [np.concatenate(pair) for pair in zip(heads, tails, strict=True)]
        real = edge[0] < edge[1]
        rest = ~long
        sector, end, when = (
            np.concatenate((kept[rest], added[real])) for kept, added in zip((sector, end, when), edge, strict=True)
        )
        zero = np.concatenate((zero[rest], np.ones(int(real.sum()), np.bool_)))
        offset = np.concatenate((offset[rest], np.zeros(int(real.sum()), np.int64)))
        by_time = np.argsort(when, kind="stable")
        sector, end, when, zero, offset = (column[by_time] for column in (sector, end, when, zero, offset))
    first = sector // SECTORS
    count = (end - 1) // SECTORS - first + 1
    if len(count) and int(count.max()) > 1:
        which = np.repeat(np.arange(len(count)), count)
        within = np.arange(len(which)) - np.repeat(np.cumsum(count) - count, count)
        first = first[which] + within
        sector_start, sector_end = sector[which], end[which]
        when, zero, offset, sector = when[which], zero[which], offset[which], sector[which]
    else:
        sector_start, sector_end = sector, end
    low = np.maximum(sector_start, first * SECTORS)
    high = np.minimum(sector_end, first * SECTORS + SECTORS)
    entries = np.zeros(len(first), ENTRY)
    entries["source"] = np.where(zero, ZERO_SOURCE, part.source)
    entries["offset"] = np.where(zero, 0, offset + (low - sector) * SECTOR)
    entries["mask"] = ((1 << (high - low)) - 1) << (low - first * SECTORS)
    return first, entries, when


def _paint(ranges: list[tuple[int, int, int]]) -> tuple[Blocks, Blocks, npt.NDArray[np.int64]]:
    """Disjoint ranges, each with the order of the last of ``ranges`` (in order) that covers it."""
    ranges = [item for item in ranges if item[0] < item[1]]
    if not ranges:
        nothing = np.zeros(0, np.int64)
        return nothing, nothing, nothing
    table = np.array(ranges, np.int64)
    edges = np.unique(table[:, :2])
    last = np.full(len(edges) - 1, -1, np.int64)
    low, high = np.searchsorted(edges, table[:, 0]), np.searchsorted(edges, table[:, 1])
    for start, end, order in zip(low.tolist(), high.tolist(), table[:, 2].tolist(), strict=True):
        last[start:end] = order
    painted = last >= 0
    return edges[:-1][painted], edges[1:][painted], last[painted]


def _last_wins(blocks: Blocks, entries: Entries, starts: Blocks, ends: Blocks) -> BlockIndex:
    by_block = np.argsort(blocks, kind="stable")
    blocks, entries = blocks[by_block], entries[by_block]
    last = np.append(blocks[1:] != blocks[:-1], True)
    whole = entries["mask"] == FULL
    if whole.all():
        return BlockIndex(blocks[last], entries[last], starts, ends)
    # An entry stays if no whole entry of its block follows it.
    group = np.cumsum(np.append(False, last[:-1]))
    newest_whole = np.full(int(group[-1]) + 1, -1, np.int64)
    newest_whole[group[whole]] = np.flatnonzero(whole)
    keep = np.arange(len(blocks)) >= newest_whole[group]
    blocks, entries = blocks[keep], entries[keep]
    return BlockIndex(blocks, entries, starts, ends)
