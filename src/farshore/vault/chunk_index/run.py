"""A run as it is searched: its tail in memory, its blocks read one by one and checked each time."""

from __future__ import annotations

import contextlib
import os
import weakref
from pathlib import Path
from typing import Protocol

import numpy as np

from farshore.formats.chunk_pack import LOCATOR, Locators
from farshore.vault.chunk_index.entries import ENTRY, Entries, Mask, Words, locators_of
from farshore.vault.chunk_index.run_format import (
    BLOCK_BYTES,
    FOOTER,
    Footer,
    Tail,
    Untrusted,
    decode_block,
    decode_tail,
    may_hold,
    off_heap,
)
from farshore.vault.upkeep.salts import Salts, SaltSet

_BLOCKS = 256
"""Blocks looked at together: 1 MiB."""


class Source(Protocol):
    """Bytes at places."""

    size: int

    def read(self, start: int, length: int) -> bytes:
        """Return up to ``length`` bytes. Raises Untrusted if they cannot be read."""
        ...


class MemorySource:
    """For an index that has no folder."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.size = len(data)

    def read(self, start: int, length: int) -> bytes:
        """See Source."""
        return self._data[start : start + length]


class FileSource:
    """An open file, which stays readable when its name is gone; closed when the last who searches it lets go."""

    def __init__(self, path: Path) -> None:
        self._handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        weakref.finalize(self, os.close, self._handle)
        self.size = os.fstat(self._handle).st_size

    def read(self, start: int, length: int) -> bytes:
        """See Source."""
        try:
            return os.pread(self._handle, length, start)
        except OSError as cause:
            raise Untrusted(f"it cannot be read: {cause.strerror}") from cause

    def read_into(self, start: int, buffer: memoryview) -> None:
        """Fill ``buffer``. Raises Untrusted, OSError."""
        done = 0
        while done < len(buffer):
            got = os.preadv(self._handle, [buffer[done:]], start + done)
            if not got:
                raise Untrusted("it was cut short")
            done += got


class SortedRun:
    """Immutable but for ``dead``. ``path`` is None for one in memory. Safe to search from several threads."""

    def __init__(self, source: Source, footer: Footer, tail: Tail, path: Path | None = None) -> None:
        self._source, self._tail = source, tail
        self.footer, self.path = footer, path
        self.count = footer.entries
        self.dead: Mask = np.zeros(footer.packs, np.bool_)
        """Packs whose chunks are not found any more, by number."""

    @classmethod
    def open(cls, path: Path, run: bytes, key_id: bytes) -> SortedRun:
        """Open a file. Raises Untrusted, OSError."""
        source = FileSource(path)
        footer = Footer.decode(source.read(source.size - FOOTER.size, FOOTER.size), source.size)
        if (footer.run, footer.key_id) != (run, key_id):
            raise Untrusted("it belongs to another index")
        tail = memoryview(off_heap(footer.tail_bytes))[: footer.tail_bytes]
        source.read_into(footer.blocks * BLOCK_BYTES, tail)
        return cls(source, footer, decode_tail(footer, tail), path)

    @property
    def salts(self) -> Salts:
        """The packs, by their numbers."""
        return self._tail.salts

    def __str__(self) -> str:
        return f"a run of {self.count} chunks in {self.path or 'memory'}"

    def remove(self) -> None:
        """Remove the run's file. Searches that are under way can finish."""
        if self.path is not None:
            with contextlib.suppress(OSError):  # what no manifest names goes when the folder is opened again
                self.path.unlink(missing_ok=True)

    def verifies(self) -> bool:
        """Read all of it: whether it is what was written."""
        try:
            for first in range(0, self.footer.blocks, _BLOCKS):
                self._entries(range(first, min(first + _BLOCKS, self.footer.blocks)))
        except Untrusted:
            return False
        return True

    def drop(self, gone: SaltSet) -> None:
        """Remove the chunks of these packs from what can be found."""
        self.dead[gone.contains(self.salts)] = True

    def find(self, high: Words, low: Words) -> tuple[Mask, Locators]:
        """Return which chunks are here, and where. Raises Untrusted."""
        found = np.zeros(len(high), np.bool_)
        locators = np.zeros(len(high), LOCATOR)
        likely = np.flatnonzero(may_hold(self._tail.filter, high, low))
        blocks = np.searchsorted(self._tail.fences, high[likely], "right") - 1
        likely, blocks = likely[blocks >= 0], blocks[blocks >= 0]
        wanted = np.unique(blocks)
        for first in range(0, len(wanted), _BLOCKS):
            some = wanted[first : first + _BLOCKS]
            entries = self._entries(some.tolist())
            mine = likely[(blocks >= some[0]) & (blocks <= some[-1])]
            place = np.minimum(np.searchsorted(entries["high"], high[mine]), len(entries) - 1)
            rows = entries[place]
            same = (rows["high"] == high[mine]) & (rows["low"] == low[mine]) & ~self.dead[rows["pack"]]
            found[mine[same]] = True
            locators[mine[same]] = locators_of(rows[same], self.salts)
        return found, locators

    def between(self, low: int, high: int) -> Entries:
        """Return the entries with ``low`` <= high word < ``high``, sorted. Raises Untrusted."""
        first = max(0, int(np.searchsorted(self._tail.fences, np.uint64(low), "right")) - 1)
        end = len(self._tail.fences)
        if high < 1 << 64:
            end = int(np.searchsorted(self._tail.fences, np.uint64(high), "left"))
        if first >= end:
            return np.zeros(0, ENTRY)
        entries = self._entries(range(first, end))
        words = entries["high"]
        keep = words >= np.uint64(low)
        if high < 1 << 64:
            keep &= words < np.uint64(high)
        return entries[keep]

    def _entries(self, blocks: list[int] | range) -> Entries:
        """Blocks in ascending order."""
        if isinstance(blocks, range):
            data = memoryview(self._source.read(blocks.start * BLOCK_BYTES, len(blocks) * BLOCK_BYTES))
            pieces = [data[at : at + BLOCK_BYTES] for at in range(0, len(blocks) * BLOCK_BYTES, BLOCK_BYTES)]
        else:
            pieces = [memoryview(self._source.read(number * BLOCK_BYTES, BLOCK_BYTES)) for number in blocks]
        if any(len(piece) < BLOCK_BYTES for piece in pieces):
            raise Untrusted("it was cut short")
        run = self.footer.run
        found = np.frombuffer(
            b"".join(decode_block(run, number, piece) for number, piece in zip(blocks, pieces, strict=True)), ENTRY
        )
        if len(found) and int(found["pack"].max()) >= self.footer.packs:
            raise Untrusted("it names a pack that it does not have")
        return found
