"""The levels of a view: records indexed in memory, layers read page by page, and base maps."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Set

import numpy as np

from farshore.formats import vault_names
from farshore.formats.base_map import ENTRY as MAP_ENTRY
from farshore.formats.base_map import INHERIT, ZERO
from farshore.formats.batch import Buffer
from farshore.formats.chunk_pack import Hashes
from farshore.formats.layer import ZERO_SOURCE, Blocks, Table
from farshore.formats.segment import SegmentIndex
from farshore.model.identifiers import BLOCK, CHUNK, SECTOR, DiskNumber
from farshore.vault.objects.base_maps import BaseMap, chunk_length
from farshore.vault.objects.layers import Layer
from farshore.vault.objects.opening import OpenedObject
from farshore.vault.reading.block_index import FULL, BlockIndex, Part, build_index
from farshore.vault.reading.blocks import EntryFiller, Mask, Need, zero
from farshore.vault.reading.cache import Bytes
from farshore.vault.reading.fetch import Fetcher, StoredChunk
from farshore.vault.reading.timeline import StoredRange

BLOCKS_PER_CHUNK = CHUNK // BLOCK


class EntryLevel:
    """Entries and zeroed ranges of blocks, wherever they come from."""

    def __init__(
        self,
        entries: Callable[[int, int], tuple[Blocks, Table]],
        zeroed: Callable[[int, int], list[tuple[int, int]]],
        filler: EntryFiller,
        whole: Callable[[], BlockIndex],
    ) -> None:
        self._entries, self._zeroed, self.filler = entries, zeroed, filler
        self.whole = whole
        """Everything the level says, for those who want it in another order than the disk's."""
        self.epoch = 0
        """The epoch whose overlay or journal it is of."""

    def fill(self, first: int, need: Need, out: Bytes) -> None:
        """See Level."""
        blocks, entries = self._entries(first, len(need))
        if len(blocks):
            self.filler.fill(blocks - first, entries, need, out)
        for start, end in self._zeroed(first, len(need)):
            zero(start - first, end - first, need, out)

    def untouched(self, first: int, count: int) -> bool:
        """Return whether the level says nothing of ``count`` blocks from ``first`` on."""
        return not len(self._entries(first, count)[0]) and not self._zeroed(first, count)

    def set_whole(self, first: int, count: int) -> tuple[Mask, Mask]:
        """Return which of ``count`` blocks from ``first`` on this level knows something of, and which it sets as a
        whole."""
        said, whole = np.zeros(count, np.bool_), np.zeros(count, np.bool_)
        blocks, entries = self._entries(first, count)
        said[blocks - first] = True
        whole[blocks[entries["mask"] == FULL] - first] = True
        for start, end in self._zeroed(first, count):
            said[start - first : end - first] = True
            whole[start - first : end - first] = True
        return said, whole

    def zero_or_unknown(self, first: int, need: Need) -> Mask:
        """See Level."""
        found = np.zeros(len(need), np.bool_)
        blocks, entries = self._entries(first, len(need))
        if len(blocks):
            blocks = blocks - first
            whole_zero = (entries["source"] == ZERO_SOURCE) & (entries["mask"] == FULL)
            found[blocks[whole_zero & (need[blocks] == FULL)]] = True
            # A block that data falls into as well is not known to be zero.
            found[blocks[entries["source"] != ZERO_SOURCE]] = False
            need[blocks] = 0
        for start, end in self._zeroed(first, len(need)):
            chosen = slice(start - first, end - first)
            found[chosen] |= need[chosen] == FULL
            need[chosen] = 0
        return found

    def chunk_hashes(self, first: int, unknown: Mask, known: Mask, out: Hashes) -> None:
        """See Level."""
        del known, out  # nobody keeps the hashes of chunks that were written to
        block, count = first * BLOCKS_PER_CHUNK, len(unknown) * BLOCKS_PER_CHUNK
        blocks, _ = self._entries(block, count)
        unknown[(blocks - block) // BLOCKS_PER_CHUNK] = False
        for start, end in self._zeroed(block, count):
            unknown[(start - block) // BLOCKS_PER_CHUNK : -(-(end - block) // BLOCKS_PER_CHUNK)] = False


def index_level(index: BlockIndex, sources: list[OpenedObject], fetcher: Fetcher) -> EntryLevel:
    """Return records indexed in memory."""
    return EntryLevel(index.entries_of, index.zeroed, EntryFiller(sources.__getitem__, fetcher), lambda: index)


def segments_level(
    opened: list[tuple[StoredRange, OpenedObject, SegmentIndex]], disk: DiskNumber, fetcher: Fetcher
) -> list[EntryLevel]:
    """Return neighbouring segments as one level; none where they say nothing of the disk."""
    parts = [
        Part(source, index.records, piece.begin - index.first_sequence, piece.end - index.first_sequence)
        for source, (piece, _, index) in enumerate(opened)
    ]
    blocks = build_index(parts, disk)
    return [] if blocks.empty else [index_level(blocks, [one for _, one, _ in opened], fetcher)]


def layer_level(layer: Layer, disk: DiskNumber, source: Callable[[int], OpenedObject], fetcher: Fetcher) -> EntryLevel:
    """Return one disk of a stored layer; ``source`` opens a row of its sources."""
    return EntryLevel(
        lambda first, count: layer.entries_of(disk, first, count, fetcher.cache),
        lambda first, count: layer.zeroed(disk, first, count),
        EntryFiller(source, fetcher),
        lambda: layer.whole(disk, fetcher.cache),
    )


class MapLevel:
    """The base map of one epoch."""

    def __init__(self, base: BaseMap, fetcher: Fetcher) -> None:
        self._base = base
        self._fetcher = fetcher
        self.size = base.index.size
        """The disk's bytes when it was copied."""
        self.epoch = base.index.epoch

    def fill(self, first: int, need: Need, out: Bytes) -> None:
        """See Level."""
        chunks, starts, entries = self._needed(first, need)
        wanted: dict[bytes, list[StoredChunk]] = {}
        places: list[tuple[int, int, tuple[str, int]]] = []
        ends = np.append(starts[1:], min(len(need), self._base.chunks * BLOCKS_PER_CHUNK - first))
        used = np.logical_or.reduceat(need != 0, starts) if len(starts) else np.zeros(0, np.bool_)
        packs = entries["pack"]
        for place in np.flatnonzero(used & (packs == ZERO)).tolist():
            zero(int(starts[place]), int(ends[place]), need, out)
        chosen = used & (packs < INHERIT)
        whole = chosen & self._whole(chunks, starts, ends, need)
        self._fill_whole(starts[whole], entries[whole], need, out)
        rest = np.flatnonzero(chosen & ~whole)
        for place, (pack, ordinal, offset, stored) in zip(rest.tolist(), entries[rest].tolist(), strict=True):
            salt = self._base.index.salts[pack].tobytes()
            chunk = int(chunks[place])
            row = StoredChunk(ordinal, offset, stored, chunk_length(chunk, self._base.index.size))
            wanted.setdefault(salt, []).append(row)
            places.append((chunk, int(starts[place]), (self._name(salt), ordinal)))
        found = self._fetcher.chunks(wanted, self._base.index.domain)
        for chunk, low, key in places:
            _copy(found[key], chunk, low, first, need, out)

    def _whole(self, chunks: Blocks, starts: Blocks, ends: Blocks, need: Need) -> Mask:
        """Which chunks are 64 KiB long and needed as a whole."""
        full = np.logical_and.reduceat(need == FULL, starts) if len(starts) else np.zeros(0, np.bool_)
        found: Mask = full & (ends - starts == BLOCKS_PER_CHUNK) & ((chunks + 1) * CHUNK <= self.size)
        return found

    def _fill_whole(self, starts: Blocks, entries: Table, need: Need, out: Bytes) -> None:
        wanted: dict[bytes, list[tuple[StoredChunk, memoryview]]] = {}
        target = out.data
        for start, (pack, ordinal, offset, stored) in zip(starts.tolist(), entries.tolist(), strict=True):
            rows = wanted.setdefault(self._base.index.salts[pack].tobytes(), [])
            place = target[start * BLOCK : start * BLOCK + CHUNK]
            rows.append((StoredChunk(ordinal, offset, stored, CHUNK), place))
        self._fetcher.chunks_into(wanted, self._base.index.domain)
        for start in starts.tolist():
            need[start : start + BLOCKS_PER_CHUNK] = 0

    def stored_chunk(self, number: int) -> tuple[bool, Buffer | None]:
        """Return whether this map decides a chunk, and its bytes where they are stored. Past the cache, in this thread.

        Raises Damaged, NotFound, Unreachable."""
        if number >= self._base.chunks:
            return False, None
        pack, ordinal, offset, stored = self._entry(number).tolist()
        if pack >= INHERIT:
            return bool(pack == ZERO), None
        salt = self._base.index.salts[pack].tobytes()
        row = StoredChunk(ordinal, offset, stored, chunk_length(number, self._base.index.size))
        return True, self._fetcher.chunks_once({salt: [row]}, self._base.index.domain)[self._name(salt), ordinal]

    def stored_runs(self, begin: int, end: int) -> Iterator[tuple[int, list[Buffer]]]:
        """Yield the stored chunks among ``[begin, end)``, opened, as runs of neighbours: the byte offset of the first
        and the chunks. All others are zero or inherited. Raises Damaged, NotFound, Unreachable."""
        end = min(end, self._base.chunks)
        entries = self._entries(begin, end)
        wanted: dict[bytes, list[StoredChunk]] = {}
        keys: dict[int, tuple[str, int]] = {}
        for place in np.flatnonzero(entries["pack"] < INHERIT).tolist():
            pack, ordinal, offset, stored = entries[place].tolist()
            salt = self._base.index.salts[pack].tobytes()
            row = StoredChunk(ordinal, offset, stored, chunk_length(begin + place, self._base.index.size))
            wanted.setdefault(salt, []).append(row)
            keys[begin + place] = (self._name(salt), ordinal)
        found = self._fetcher.chunks_once(wanted, self._base.index.domain)
        first, run = 0, list[Buffer]()
        for chunk, key in keys.items():
            if run and chunk != first + len(run):
                yield first * CHUNK, run
                run = []
            first = first if run else chunk
            run.append(found[key])
        if run:
            yield first * CHUNK, run

    def zero_or_unknown(self, first: int, need: Need) -> Mask:
        """See Level."""
        found = np.zeros(len(need), np.bool_)
        _, starts, entries = self._needed(first, need)
        if len(starts):
            end = min(len(need), self._base.chunks * BLOCKS_PER_CHUNK - first)
            packs = np.repeat(entries["pack"], np.diff(np.append(starts, end)))
            found[:end] = (packs == ZERO) & (need[:end] == FULL)
            need[:end][packs != INHERIT] = 0
        return found

    def chunk_hashes(self, first: int, unknown: Mask, known: Mask, out: Hashes) -> None:
        """See Level."""
        for place in np.flatnonzero(unknown).tolist():
            if first + place >= self._base.chunks:
                break
            pack = int(self._entry(first + place)["pack"])
            digest = self._hash(first + place)
            if pack != INHERIT or digest.any():
                out[place] = digest
                known[place] = True
                unknown[place] = False

    def chunks_in(self, first: int, undecided: Mask, objects: Set[str]) -> Mask:
        """Return which undecided chunks from ``first`` on this map places in one of these objects; clears those
        decided."""
        found = np.zeros(len(undecided), np.bool_)
        packs = self._entries(first, min(first + len(undecided), self._base.chunks))["pack"]
        names = self._base.pack_names()
        bad = [number for number, name in enumerate(names) if name in objects]
        mine = undecided[: len(packs)]
        found[: len(packs)] = mine & np.isin(packs, bad)
        mine &= packs == INHERIT
        return found

    def _name(self, salt: bytes) -> str:
        return vault_names.chunk_pack(salt, self._base.index.domain)

    def _needed(self, first: int, need: Need) -> tuple[Blocks, Blocks, Table]:
        """The chunks of this map that a read touches, where each begins in ``need``, and their entries."""
        begin = first // BLOCKS_PER_CHUNK
        end = min(-(-(first + len(need)) // BLOCKS_PER_CHUNK), self._base.chunks)
        chunks = np.arange(begin, max(begin, end))
        return chunks, np.maximum(chunks * BLOCKS_PER_CHUNK - first, 0), self._entries(begin, end)

    def _entries(self, begin: int, end: int) -> Table:
        """The entries of the chunks ``[begin, end)``."""
        size = self._base.index.page_chunks
        parts: list[Table] = []
        for page in range(begin // size, -(-end // size)):
            table = self._page(page)
            parts.append(table[max(0, begin - page * size) : end - page * size])
        if len(parts) == 1:
            return parts[0]
        return np.concatenate(parts) if parts else np.zeros(0, MAP_ENTRY)

    def _entry(self, chunk: int) -> Table:
        page, within = divmod(chunk, self._base.index.page_chunks)
        row: Table = self._page(page)[within]
        return row

    def _page(self, page: int) -> Table:
        data = self._fetcher.cache.load(self._base.opened.name, 2 * page, lambda: self._base.entries(page).tobytes())
        entries: Table = data.view(MAP_ENTRY)
        return entries

    def _hash(self, chunk: int) -> Bytes:
        page, within = divmod(chunk, self._base.index.page_chunks)
        cache, name = self._fetcher.cache, self._base.opened.name
        data = cache.load(name, 2 * page + 1, lambda: self._base.hashes(page).tobytes())
        return data[within * 32 : within * 32 + 32]


def _copy(data: Bytes, chunk: int, low: int, first: int, need: Need, out: Bytes) -> None:
    """Copy what is needed of a chunk; a short last chunk is followed by zeroes."""
    high = min((chunk + 1) * BLOCKS_PER_CHUNK - first, len(need))
    skip = (low + first) * BLOCK - chunk * CHUNK
    piece = data[skip : skip + (high - low) * BLOCK]
    mine = need[low:high]
    if (mine == FULL).all():
        target = out[low * BLOCK : high * BLOCK]
        target[: len(piece)] = piece
        target[len(piece) :] = 0
    else:
        source = np.zeros((high - low) * BLOCK, np.uint8)
        source[: len(piece)] = piece
        wanted = np.unpackbits(mine, bitorder="little").astype(np.bool_)
        out[low * BLOCK : high * BLOCK].reshape(-1, SECTOR)[wanted] = source.reshape(-1, SECTOR)[wanted]
    mine[:] = 0
