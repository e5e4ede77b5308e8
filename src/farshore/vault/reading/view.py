"""A disk at a position, as a BlockSource: a stack of levels, read from the newest downwards.

For each block a mask says which of its sectors are still to be found. Each level fills what it decides and clears
those bits; what nobody decides is zero. Packs are fetched for a whole step of a read at once and kept in a bounded
cache.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from farshore.formats.batch import Buffer
from farshore.formats.chunk_pack import Hashes
from farshore.model.errors import Damaged, Malformed, NotFound
from farshore.model.identifiers import BLOCK, CHUNK
from farshore.model.ports import Extent
from farshore.vault.reading.block_index import FULL
from farshore.vault.reading.blocks import Level, Need, zero
from farshore.vault.reading.cache import Bytes
from farshore.vault.reading.leases import Lease
from farshore.vault.reading.levels import BLOCKS_PER_CHUNK, EntryLevel, MapLevel

_READ_AHEAD = 8 << 20
"""Bytes of one step of a long read: what is fetched together."""
_REMEDY = "Choose another point; run `farshore vault verify --data` to see what else is affected."


class Bases(NamedTuple):
    """Of some chunks: the hash of each one's base, whether it is known, and the epoch whose base map has it (0: none,
    it is zero); whether an overlay or a journal writes to it, and whether these write to all of it."""

    hashes: Hashes
    known: npt.NDArray[np.bool_]
    epochs: npt.NDArray[np.int64]
    touched: npt.NDArray[np.bool_]
    hidden: npt.NDArray[np.bool_]


class DiskView:
    """A BlockSource over levels, newest first."""

    def __init__(
        self, label: str, size: int, levels: Sequence[Level], threads: ThreadPoolExecutor, lease: Lease | None = None
    ) -> None:
        self._label = label
        self._lease = lease
        self._size = size
        self._levels = levels
        self._threads = threads

    @property
    def size(self) -> int:
        """Bytes of the disk."""
        return self._size

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """See BlockSource."""
        target = np.frombuffer(buffer, np.uint8)
        if offset < 0 or offset + len(target) > self._size:
            raise Malformed("The read goes beyond the end of the disk.", remedy="Read within the disk's size.")
        done = 0
        while done < len(target):
            start = offset + done
            lead = start % BLOCK
            take = min(len(target) - done, _READ_AHEAD - lead)
            whole = -(-(lead + take) // BLOCK) * BLOCK
            if lead == 0 and whole == take:
                self._read_blocks(start // BLOCK, target[done : done + take])
            else:
                bounce = np.empty(whole, np.uint8)
                self._read_blocks(start // BLOCK, bounce)
                target[done : done + take] = bounce[lead : lead + take]
            done += take

    def extents(self, offset: int, length: int) -> Iterator[Extent]:
        """See BlockSource. A run is called zero only where the indexes say so; data is not read for it."""
        if offset < 0 or offset + length > self._size:
            raise Malformed("The range goes beyond the end of the disk.", remedy="Use a range within the disk's size.")
        pending: Extent | None = None
        start, end = offset, offset + length
        while start < end:
            stop = min(end, (start // CHUNK + 1024) * CHUNK)
            first = start // BLOCK
            zeroes = self._zero_blocks(first, -(-stop // BLOCK) - first)
            edges = np.flatnonzero(zeroes[1:] != zeroes[:-1]) + 1
            for low, high in zip([0, *edges.tolist()], [*edges.tolist(), len(zeroes)], strict=True):
                begin, finish = max((first + low) * BLOCK, start), min((first + high) * BLOCK, stop)
                run = Extent(begin, finish - begin, bool(zeroes[low]))
                if pending is not None and pending.zero == run.zero:
                    pending = Extent(pending.offset, pending.length + run.length, run.zero)
                else:
                    if pending is not None:
                        yield pending
                    pending = run
            start = stop
        if pending is not None:
            yield pending

    def whole_chunk(self, number: int) -> Buffer | None:
        """See WholeChunks: the stored chunk, where nothing that lies above the base touches it."""
        first = number * BLOCKS_PER_CHUNK
        with self._located(first, BLOCKS_PER_CHUNK):
            for level in self._levels:
                if isinstance(level, MapLevel):
                    decided, data = level.stored_chunk(number)
                    if decided:
                        return data
                elif not isinstance(level, EntryLevel) or not level.untouched(first, BLOCKS_PER_CHUNK):
                    return None
        return None

    def journal_over_base(self) -> tuple[list[EntryLevel], DiskView] | None:
        """Return the levels of the journal, the newest first, and a view of the base alone, where nothing lies below
        the base; None for a state of several epochs. The base's view is this one's and needs no closing."""
        journal = [level for level in self._levels if isinstance(level, EntryLevel)]
        base = self._levels[len(journal) :]
        if len(base) > 1 or any(isinstance(level, EntryLevel) for level in base):
            return None
        return journal, DiskView(self._label, self._size, base, self._threads)

    def only_map(self) -> MapLevel | None:
        """Return the base map, where the view is nothing else and the map spans the disk."""
        level = self._levels[0] if len(self._levels) == 1 else None
        return level if isinstance(level, MapLevel) and level.size == self._size else None

    @contextlib.contextmanager
    def located(self, offset: int, length: int) -> Iterator[None]:
        """Add to errors within the context which bytes of which disk cannot be read."""
        with self._located(offset // BLOCK, -(-length // BLOCK)):
            yield

    def chunk_hashes(self, first: int, count: int) -> tuple[npt.NDArray[np.bool_], Hashes]:
        """Return, for ``count`` chunks from ``first`` on, whether the hash is known without reading data, and the hash.

        A hash is a chunk's own only where the chunk has the same length now as when it was copied.
        """
        unknown = np.ones(count, np.bool_)
        known = np.zeros(count, np.bool_)
        hashes = np.zeros((count, 32), np.uint8)
        for level in self._levels:
            if not unknown.any():
                break
            level.chunk_hashes(first, unknown, known, hashes)
        return known | unknown, hashes

    def bases(self, first: int, count: int) -> Bases:
        """Return what lies below the journals and overlays of ``count`` chunks from ``first`` on. Reads no data."""
        unknown, known = np.ones(count, np.bool_), np.zeros(count, np.bool_)
        hashes, epochs = np.zeros((count, 32), np.uint8), np.zeros(count, np.int64)
        block, blocks = first * BLOCKS_PER_CHUNK, count * BLOCKS_PER_CHUNK
        said, whole = np.zeros(blocks, np.bool_), np.zeros(blocks, np.bool_)
        for level in self._levels:
            if not unknown.any():
                break
            if isinstance(level, EntryLevel):
                # What lies below the base of a chunk does not count for it.
                above = np.repeat(unknown, BLOCKS_PER_CHUNK)
                more, all_of_it = level.set_whole(block, blocks)
                said |= more & above
                whole |= all_of_it & above
            elif isinstance(level, MapLevel):
                before = unknown.copy()
                level.chunk_hashes(first, unknown, known, hashes)
                epochs[before & ~unknown] = level.epoch
        known |= unknown  # zero: nobody ever copied or wrote it
        known &= ~self.ends_of_maps(first, count)
        touched: npt.NDArray[np.bool_] = np.logical_or.reduce(said.reshape(count, BLOCKS_PER_CHUNK), axis=1)
        hidden: npt.NDArray[np.bool_] = np.logical_and.reduce(whole.reshape(count, BLOCKS_PER_CHUNK), axis=1)
        return Bases(hashes, known, epochs, touched, hidden)

    def below(self, epoch: int) -> DiskView:
        """Return the base of ``epoch`` and what lies below it; 0: nothing at all, which is zero. It is this view's and
        needs no closing."""
        places = [place for place, one in enumerate(self._levels) if isinstance(one, MapLevel) and one.epoch == epoch]
        levels = self._levels[places[0] :] if places else []
        return DiskView(self._label, self._size, levels, self._threads)

    def entry_levels(self) -> list[EntryLevel]:
        """Return the journals and overlays, the newest first."""
        return [level for level in self._levels if isinstance(level, EntryLevel)]

    def ends_of_maps(self, first: int, count: int) -> npt.NDArray[np.bool_]:
        """Return which of ``count`` chunks from ``first`` on are the last of a map of another length than the disk's:
        its hash may be of fewer bytes."""
        found = np.zeros(count, np.bool_)
        for level in self._levels:
            if isinstance(level, MapLevel) and level.size != self._size:
                last = max(0, level.size - 1) // CHUNK - first
                if 0 <= last < count:
                    found[last] = True
        return found

    def chunks_in(self, first: int, count: int, objects: Set[str]) -> npt.NDArray[np.bool_]:
        """Return which of ``count`` chunks from ``first`` on, where no write touched them, lie in one of these
        objects."""
        undecided = np.ones(count, np.bool_)
        found = np.zeros(count, np.bool_)
        for level in self._levels:
            if isinstance(level, MapLevel):
                found |= level.chunks_in(first, undecided, objects)
        return found

    def close(self) -> None:
        """See BlockSource."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        if self._lease is not None:
            self._lease.release()

    @contextlib.contextmanager
    def _located(self, first: int, count: int) -> Iterator[None]:
        """Errors say which bytes of which disk they keep from being read."""
        where = f"Bytes {first * BLOCK} to {(first + count) * BLOCK} of {self._label} cannot be read"
        try:
            yield
        except NotFound as cause:
            raise Damaged(f"{where}: an object is missing. {cause.message}", remedy=_REMEDY) from cause
        except Damaged as cause:
            raise Damaged(f"{where}: {cause.message}", remedy=_REMEDY) from cause

    def _read_blocks(self, first: int, out: Bytes) -> None:
        need: Need = np.full(len(out) // BLOCK, FULL, np.uint8)
        with self._located(first, len(need)):
            for level in self._levels:
                level.fill(first, need, out)
                if not need.any():
                    return
        zero(0, len(need), need, out)

    def _zero_blocks(self, first: int, count: int) -> npt.NDArray[np.bool_]:
        need: Need = np.full(count, FULL, np.uint8)
        known = np.zeros(count, np.bool_)
        with self._located(first, count):
            for level in self._levels:
                if not need.any():
                    return known
                known |= level.zero_or_unknown(first, need)
        result: npt.NDArray[np.bool_] = known | (need == FULL)
        return result
