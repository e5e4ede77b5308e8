"""Track which chunks of an epoch's disks the machine has reported.

An unreported chunk would read as zeroes (or as before) in the new epoch. So completion is refused until every chunk was
compared or sent, except those that a healing epoch inherits from its parent. An agent asks for the missing chunks,
compares them again, and most of them are known.

Memory grows with the reported chunks, not with the declared sizes: a byte for each chunk of a page with a reported
chunk, and nothing for a complete page.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import numpy as np
import numpy.typing as npt

from farshore.model.errors import Malformed
from farshore.model.identifiers import CHUNK, DiskNumber

PAGE = 4096
"""Chunks: 256 MiB of a disk."""

Told = npt.NDArray[np.bool_]


class CopyCoverage:
    """``inherited``: by disk, how many of its first chunks need not be reported, because they are the parent's. Not
    thread-safe: its owner holds a lock."""

    def __init__(
        self, disks: Iterable[tuple[DiskNumber, int]], inherited: Mapping[DiskNumber, int] | None = None
    ) -> None:
        given = inherited or {}
        self._disks = {number: _Disk(-(-size // CHUNK), given.get(number, 0)) for number, size in disks}

    @property
    def told(self) -> int:
        """How many of the required chunks were reported."""
        return sum(disk.told for disk in self._disks.values())

    @property
    def wanted(self) -> int:
        """How many chunks are required, including the reported ones."""
        return sum(disk.wanted for disk in self._disks.values())

    def add_run(self, disk: DiskNumber, first: int, told: Told) -> bool:
        """Add the chunks from ``first`` on as ``told`` says; return whether any is new. Raises Malformed for chunks
        outside the disk."""
        known = self._of(disk)
        if first + len(told) > known.chunks:
            raise _outside(disk, known)
        return known.add_run(first, told)

    def add(self, disk: DiskNumber, chunks: npt.NDArray[np.int64]) -> None:
        """Add these chunks. Raises Malformed for chunks outside the disk."""
        known = self._of(disk)
        if len(chunks) and (int(chunks.min()) < 0 or int(chunks.max()) >= known.chunks):
            raise _outside(disk, known)
        known.add(chunks)

    def missing(self) -> str:
        """Return the missing chunks in words; empty when nothing is missing."""
        parts: list[str] = []
        for number, disk in sorted(self._disks.items()):
            if disk.lacking:
                first, _ = next(disk.gaps())
                parts.append(f"{disk.lacking} of {disk.chunks} chunks of disk {number}, the first at {first}")
        return "; ".join(parts)

    def ranges_missing(self, limit: int) -> list[tuple[DiskNumber, int, int]]:
        """Return the first ``limit`` runs of missing chunks: (disk, first chunk, chunks)."""
        found: list[tuple[DiskNumber, int, int]] = []
        for number, disk in sorted(self._disks.items()):
            for first, end in disk.gaps():
                if len(found) == limit:
                    return found
                found.append((number, first, end - first))
        return found

    def _of(self, disk: DiskNumber) -> _Disk:
        try:
            return self._disks[disk]
        except KeyError:
            raise Malformed(
                f"Disk {disk} is not part of this epoch.", remedy="Open a new epoch with the disk."
            ) from None


def _outside(number: DiskNumber, disk: _Disk) -> Malformed:
    return Malformed(f"Disk {number} has {disk.chunks} chunks.", remedy="Open a new epoch: the disk has changed.")


class _Disk:
    """``told`` counts chunks beyond the inherited ones."""

    def __init__(self, chunks: int, inherited: int) -> None:
        self.chunks = chunks
        self.told = 0
        self._first = min(inherited, chunks)
        self._pages: dict[int, Told | None] = {}
        """By number, the pages with a reported chunk; None: the page is complete."""
        self._counts: dict[int, int] = {}
        """For those pages, how many chunks were reported or inherited."""

    @property
    def wanted(self) -> int:
        return self.chunks - self._first

    @property
    def lacking(self) -> int:
        return self.wanted - self.told

    def add_run(self, first: int, told: Told) -> bool:
        before, end = self.told, first + len(told)
        for page in range(first // PAGE, -(-end // PAGE)):
            low, high = max(first, page * PAGE), min(end, (page + 1) * PAGE)
            part = told[low - first : high - first]
            if part.any():
                flags = self._flags(page)
                if flags is not None:
                    flags[low - page * PAGE : high - page * PAGE] |= part
                    self._count(page, flags)
        return self.told > before

    def add(self, chunks: npt.NDArray[np.int64]) -> None:
        pages = chunks // PAGE
        for page in np.unique(pages).tolist():
            flags = self._flags(page)
            if flags is not None:
                flags[chunks[pages == page] - page * PAGE] = True
                self._count(page, flags)

    def gaps(self) -> Iterator[tuple[int, int]]:
        """Yield half-open runs of missing chunks, in order, without gaps between their parts."""
        begin = -1
        for first, end, missing in self._stretches():
            if missing and begin < 0:
                begin = first
            elif not missing and begin >= 0:
                yield begin, first
                begin = -1
            if missing and end == self.chunks:
                yield begin, end

    def _stretches(self) -> Iterator[tuple[int, int, bool]]:
        """Yield the disk in half-open stretches, each completely missing or completely present."""
        at = self._first
        if at:
            yield 0, at, False
        for page in sorted(self._pages):
            first, end = page * PAGE, min((page + 1) * PAGE, self.chunks)
            if first > at:
                yield at, first, True
            flags = self._pages[page]
            if flags is None:
                yield first, end, False
            else:
                edges = np.flatnonzero(np.diff(flags)) + 1
                for low, high in zip([0, *edges.tolist()], [*edges.tolist(), len(flags)], strict=True):
                    if first + high > at:
                        yield max(first + low, at), first + high, not flags[low]
            at = max(at, end)
        if at < self.chunks:
            yield at, self.chunks, True

    def _flags(self, page: int) -> Told | None:
        if page not in self._pages:
            flags = np.zeros(min(PAGE, self.chunks - page * PAGE), np.bool_)
            inherited = min(len(flags), max(0, self._first - page * PAGE))
            flags[:inherited] = True
            self._counts[page] = inherited
            self._pages[page] = None if inherited == len(flags) else flags
        return self._pages[page]

    def _count(self, page: int, flags: Told) -> None:
        count = int(np.count_nonzero(flags))
        self.told += count - self._counts[page]
        self._counts[page] = count
        if count == len(flags):
            self._pages[page] = None
