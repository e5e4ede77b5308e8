"""Record which blocks of an overlay hold data: one byte per 4 KiB block, stored twice.

``live`` is mapped into memory and changes with every write: it is in the page cache, so it outlives this process, but
after a power cut it may be ahead of the data. ``durable`` is only written by ``commit``, after the data that it
describes is on the disk. When an overlay is opened, the live map counts if the host has not been restarted since,
otherwise the durable one. So an answered write survives the death of the process, a flushed write survives a power cut,
and no block is ever believed to hold data that was not written.

Byte layout: docs/formats/overlay.md.
"""

from __future__ import annotations

import mmap
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from farshore.model.errors import Damaged
from farshore.model.identifiers import BLOCK

SOURCE: Final = 0
"""The block must be read from the source."""
DATA: Final = 1
"""The block is in the overlay's data file."""
ZERO: Final = 2
"""The block reads as zeroes."""

_PAGE = 4096
"""Bytes of map that are committed as a unit: 16 MiB of disk."""
_RUNS = re.compile(rb"\x00+|\x01+|\x02+", re.DOTALL)
_COPY = 1 << 20


class BlockRun(NamedTuple):
    """Neighbouring blocks in one state: ``[first, last)``."""

    first: int
    last: int
    state: int


class OverlayMap:
    """The states of ``blocks`` blocks, in the two files ``live`` and ``durable`` of ``folder``."""

    def __init__(self, folder: Path, blocks: int, *, trust_live: bool) -> None:
        self._blocks = blocks
        self._durable = _open_sized(folder / "durable", blocks)
        live = _open_sized(folder / "live", blocks)
        try:
            # Their space is allocated now: a page of a mapped file without space would kill the process later, and a
            # flush must not fail for a map if there was space for the data.
            os.posix_fallocate(live, 0, max(blocks, 1))
            os.posix_fallocate(self._durable, 0, max(blocks, 1))
            if not trust_live:
                _copy(self._durable, live, blocks)
                os.fsync(live)
            self.states = mmap.mmap(live, max(blocks, 1))
        finally:
            os.close(live)
        self._touched: set[int] = set() if not trust_live else self._differing()

    def _differing(self) -> set[int]:
        """Return pages that the last run changed and did not commit."""
        pages: set[int] = set()
        for start in range(0, self._blocks, _COPY):
            count = min(_COPY, self._blocks - start)
            live, durable = self.states[start : start + count], os.pread(self._durable, count, start)
            if live != durable:
                pages.update(
                    (start + at) // _PAGE
                    for at in range(0, count, _PAGE)
                    if live[at : at + _PAGE] != durable[at : at + _PAGE]
                )
        return pages

    def runs(self, first: int, last: int) -> Iterator[BlockRun]:
        """Yield the runs of blocks ``[first, last)``, in order."""
        for start in range(first, last, _COPY):
            states = self.states[start : min(start + _COPY, last)]
            for match in _RUNS.finditer(states):
                yield BlockRun(start + match.start(), start + match.end(), states[match.start()])

    def mark(self, first: int, last: int, state: int) -> None:
        """Set blocks ``[first, last)``: after the data was passed to the kernel, never before."""
        wanted = bytes((state,)) * (last - first)
        if self.states[first:last] != wanted:
            self.states[first:last] = wanted
            self._touched.update(range(first // _PAGE, (last - 1) // _PAGE + 1))

    def pending(self) -> dict[int, bytes]:
        """Take the changed pages as they are now: the data that they describe must be synced, then ``commit``."""
        pages: dict[int, bytes] = {}
        while self._touched:
            page = self._touched.pop()
            pages[page] = self.states[page * _PAGE : min((page + 1) * _PAGE, self._blocks)]
        return pages

    def commit(self, pages: dict[int, bytes]) -> None:
        """Make ``pages`` durable. Raises OSError; then they can be committed again, because they are always written
        completely."""
        if not pages:
            return
        for page, states in sorted(pages.items()):
            if os.pwrite(self._durable, states, page * _PAGE) != len(states):
                raise Damaged("The overlay's map was only partly written.", remedy="Check the overlay's disk.")
        os.fdatasync(self._durable)

    def retract(self, pages: dict[int, bytes]) -> None:
        """Return pages whose commit failed."""
        self._touched.update(pages)

    def close(self) -> None:
        self.states.close()
        os.close(self._durable)


def blocks_of(size: int) -> int:
    """Return how many blocks a disk of ``size`` bytes has; the last may be short."""
    return (size + BLOCK - 1) // BLOCK


def _open_sized(path: Path, size: int) -> int:
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    found = os.fstat(file).st_size
    if found < size:
        # A new one, or one whose creation was interrupted before anything was marked.
        os.ftruncate(file, size)
    return file


def _copy(source: int, target: int, size: int) -> None:
    for offset in range(0, size, _COPY):
        os.pwrite(target, os.pread(source, min(_COPY, size - offset), offset), offset)
