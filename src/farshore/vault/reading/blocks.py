"""Blocks being read: a mask of the sectors still to be found for each, and the filling of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

import numpy as np
import numpy.typing as npt

from farshore.formats.chunk_pack import Hashes
from farshore.formats.layer import ZERO_SOURCE, Blocks, Table
from farshore.model.identifiers import BLOCK, SECTOR
from farshore.vault.objects.opening import OpenedObject
from farshore.vault.reading.block_index import FULL, SECTORS, BlockIndex
from farshore.vault.reading.cache import Bytes
from farshore.vault.reading.fetch import Fetcher

Mask = npt.NDArray[np.bool_]
Need = npt.NDArray[np.uint8]
"""For each block of a read, the sectors still to be found, one bit each."""


class Level(Protocol):
    """One part of what a disk is made of; a view asks the newest first."""

    def fill(self, first: int, need: Need, out: Bytes) -> None:
        """Write what this level decides of the blocks from ``first`` on, which ``out`` holds, and clear its bits.

        Raises Damaged, NotFound, Unreachable."""
        ...

    def zero_or_unknown(self, first: int, need: Need) -> Mask:
        """Return which needed blocks this level decides to be zero as a whole, without reading data; clears the bits of
        every block that it decides in any way."""
        ...

    def chunk_hashes(self, first: int, unknown: Mask, known: Mask, out: Hashes) -> None:
        """Look at the chunks from ``first`` on that are still ``unknown``. Clear the bit of each that this level
        decides; if it knows the hash without reading data, set ``known`` and write the hash to ``out``."""
        ...


class EntryFiller:
    """Fills blocks from entries (formats.layer.ENTRY) of opened sources."""

    def __init__(self, source: Callable[[int], OpenedObject], fetcher: Fetcher) -> None:
        self.source = source
        """Opens the object that entries with a number point into."""
        self._fetcher = fetcher

    def fill(self, blocks: Blocks, entries: Table, need: Need, out: Bytes) -> None:
        """Fill blocks from entries that are sorted by block and, within a block, by time. ``blocks`` are places in
        ``need``."""
        wanted = (need[blocks] & entries["mask"]) != 0
        blocks, entries = blocks[wanted], entries[wanted]
        if not len(blocks):
            return
        is_zero = entries["source"] == ZERO_SOURCE
        numbers = np.zeros(len(entries), np.int64)
        within = np.zeros(len(entries), np.int64)
        opened: dict[int, OpenedObject] = {}
        requests: list[tuple[OpenedObject, list[int]]] = []
        for source in np.unique(entries["source"][~is_zero]).tolist():
            chosen = np.flatnonzero(entries["source"] == source)
            opened[source] = self.source(source)
            starts = opened[source].starts
            offsets = entries["offset"][chosen].astype(np.int64)
            lengths = np.bitwise_count(entries["mask"][chosen]).astype(np.int64) * SECTOR
            numbers[chosen] = np.searchsorted(starts, offsets, "right") - 1
            within[chosen] = offsets - starts[numbers[chosen]]
            last = np.searchsorted(starts, offsets + lengths, "left") - 1
            requests.append((opened[source], np.unique(np.concatenate((numbers[chosen], last))).tolist()))
        found = self._fetcher.packs(requests)
        rest = self._fill_whole(blocks, entries, numbers, within, opened, found, need, out)
        grid = out.reshape(-1, SECTORS, SECTOR)
        # Newest first, so that an older entry of the same block fills only what is left.
        for place in rest[::-1].tolist():
            block, mask = int(blocks[place]), int(entries["mask"][place])
            take = mask & int(need[block])
            if is_zero[place]:
                _patch(grid[block], take, None)
            else:
                length = mask.bit_count() * SECTOR
                source = opened[int(entries["source"][place])]
                piece = _piece(source, found, int(numbers[place]), int(within[place]), length)
                _patch(grid[block], take, piece.reshape(-1, SECTOR), (mask & -mask).bit_length() - 1)
            need[block] &= ~take & FULL

    def in_stored_order(self, index: BlockIndex) -> Iterator[tuple[int, Bytes]]:
        """Yield blocks that one whole entry decides, as (block, 4,096 bytes), in the order in which they are stored:
        each pack is read once. The others are left out. Raises Damaged, NotFound, Unreachable."""
        places = np.flatnonzero(simple_entries(index.blocks, index.entries))
        entries, blocks = index.entries[places], index.blocks[places]
        order = np.lexsort((entries["offset"], entries["source"]))
        edges = np.flatnonzero(np.diff(entries["source"][order].astype(np.int64))) + 1
        for group in np.split(order, edges) if len(order) else []:
            opened = self.source(int(entries["source"][group[0]]))
            offsets = entries["offset"][group].astype(np.int64)
            numbers = np.searchsorted(opened.starts, offsets, "right") - 1
            last = np.searchsorted(opened.starts, offsets + BLOCK, "left") - 1
            wanted = np.unique(np.concatenate((numbers, last))).tolist()
            packs = dict(zip(wanted, opened.read_packs(wanted), strict=True))
            found = {(opened.name, number): np.frombuffer(data, np.uint8) for number, data in packs.items()}
            within = offsets - opened.starts[numbers]
            for place, number, begin in zip(group.tolist(), numbers.tolist(), within.tolist(), strict=True):
                yield int(blocks[place]), _piece(opened, found, number, begin, BLOCK)

    def _fill_whole(
        self,
        blocks: Blocks,
        entries: Table,
        numbers: Blocks,
        within: Blocks,
        opened: dict[int, OpenedObject],
        found: dict[tuple[str, int], Bytes],
        need: Need,
        out: Bytes,
    ) -> Blocks:
        """Copy whole blocks that one entry decides, pack by pack; return the places of the other entries."""
        simple = simple_entries(blocks, entries) & (need[blocks] == FULL)
        places = np.flatnonzero(simple)
        if not len(places):
            return np.arange(len(blocks))
        order = np.lexsort((places, numbers[places], entries["source"][places]))
        places = places[order]
        source, number = entries["source"][places], numbers[places]
        edges = np.flatnonzero((source[1:] != source[:-1]) | (number[1:] != number[:-1])) + 1
        grid = out.reshape(-1, BLOCK)
        straddling = []
        for group in np.split(places, edges):
            data = found[opened[int(entries["source"][group[0]])].name, int(numbers[group[0]])]
            begin = within[group]
            inside = begin + BLOCK <= len(data)
            if not inside.all():
                straddling.append(group[~inside])
                group, begin = group[inside], begin[inside]
            if len(group):
                _gather(data, begin, blocks[group], grid)
                need[blocks[group]] = 0
        simple[np.concatenate(straddling) if straddling else []] = False
        return np.flatnonzero(~simple)


def simple_entries(blocks: Blocks, entries: Table) -> Mask:
    """Return which entries are the only one of their block, set all of it, and hold data."""
    same = blocks[1:] == blocks[:-1]
    alone = ~(np.append(False, same) | np.append(same, False)) if len(blocks) else np.zeros(0, np.bool_)
    simple: Mask = alone & (entries["mask"] == FULL) & (entries["source"] != ZERO_SOURCE)
    return simple


def _gather(data: Bytes, begin: Blocks, blocks: Blocks, grid: npt.NDArray[np.uint8]) -> None:
    count = len(begin)
    # Blocks rise, but they may have been written in any order: each step counts, not only the ends.
    if int(blocks[-1]) - int(blocks[0]) == count - 1 and bool((np.diff(begin) == BLOCK).all()):
        start = int(begin[0])
        grid[int(blocks[0]) : int(blocks[0]) + count] = data[start : start + count * BLOCK].reshape(-1, BLOCK)
    elif not (begin % BLOCK).any():
        grid[blocks] = data[: len(data) // BLOCK * BLOCK].reshape(-1, BLOCK)[begin // BLOCK]
    else:
        for start, block in zip(begin.tolist(), blocks.tolist(), strict=True):
            grid[block] = data[start : start + BLOCK]


def zero(low: int, high: int, need: Need, out: Bytes) -> None:
    """Zero what is needed of the places ``[low, high)``."""
    mine = need[low:high]
    if (mine == FULL).all():
        out[low * BLOCK : high * BLOCK] = 0
    else:
        wanted = np.unpackbits(mine, bitorder="little").astype(np.bool_)
        out[low * BLOCK : high * BLOCK].reshape(-1, SECTOR)[wanted] = 0
    mine[:] = 0


def _piece(opened: OpenedObject, found: dict[tuple[str, int], Bytes], number: int, within: int, length: int) -> Bytes:
    """``length`` bytes of an object's payload; they may reach into the next pack."""
    piece = found[opened.name, number][within : within + length]
    while len(piece) < length:
        number += 1
        piece = np.concatenate((piece, found[opened.name, number][: length - len(piece)]))
    return piece


def _patch(block: npt.NDArray[np.uint8], take: int, piece: npt.NDArray[np.uint8] | None, lowest: int = 0) -> None:
    """Copy the sectors in ``take``; ``piece`` begins at sector ``lowest``, None is zeroes."""
    for sector in range(SECTORS):
        if take >> sector & 1:
            block[sector] = 0 if piece is None else piece[sector - lowest]
