"""Which chunks of an epoch's disks the machine has told us about.

A chunk that nobody told us about would read as zeroes (or as before) in the new epoch. So completion is refused
until every chunk was compared or sent, but for those that a healing epoch takes over from its parent. An agent asks
for what is missing, compares that again, and finds most chunks known.
"""

from __future__ import annotations

from typing import Iterable, Mapping

import numpy as np
import numpy.typing as npt

from farshore.model.errors import Malformed
from farshore.model.identifiers import CHUNK, DiskNumber


class Coverage:
    """One byte for each chunk (16 MiB for 1 TiB). ``inherited``: by disk, how many of its first chunks need not be
    told, as they are those of the parent. Not thread-safe: its owner holds a lock."""

    def __init__(
        self, disks: Iterable[tuple[DiskNumber, int]], inherited: Mapping[DiskNumber, int] | None = None
    ) -> None:
        self._told: dict[DiskNumber, npt.NDArray[np.bool_]] = {
            number: np.zeros(-(-size // CHUNK), np.bool_) for number, size in disks
        }
        for number, count in (inherited or {}).items():
            self._told[number][:count] = True
        self._untold = sum(int(np.count_nonzero(told)) for told in self._told.values())

    @property
    def told(self) -> int:
        """How many chunks were told, of those that have to be."""
        return sum(int(np.count_nonzero(told)) for told in self._told.values()) - self._untold

    def add_run(self, disk: DiskNumber, first: int, told: npt.NDArray[np.bool_]) -> None:
        """Chunks ``first`` … as ``told`` says. Raises Malformed outside the disk."""
        known = self._of(disk)
        if first + len(told) > len(known):
            raise Malformed(f"Disk {disk} has {len(known)} chunks.", remedy="Open a new epoch: the disk has changed.")
        known[first : first + len(told)] |= told

    def add(self, disk: DiskNumber, chunks: npt.NDArray[np.int64]) -> None:
        """These chunks. Raises Malformed outside the disk."""
        known = self._of(disk)
        if len(chunks) and (int(chunks.min()) < 0 or int(chunks.max()) >= len(known)):
            raise Malformed(f"Disk {disk} has {len(known)} chunks.", remedy="Open a new epoch: the disk has changed.")
        known[chunks] = True

    def missing(self) -> str:
        """What has not been told, in words; empty when nothing is missing."""
        parts: list[str] = []
        for disk, told in sorted(self._told.items()):
            lacking = len(told) - int(np.count_nonzero(told))
            if lacking:
                parts.append(f"{lacking} of {len(told)} chunks of disk {disk}, the first at {int(np.argmin(told))}")
        return "; ".join(parts)

    def ranges_missing(self, limit: int) -> list[tuple[DiskNumber, int, int]]:
        """The first ``limit`` runs of chunks that were not told: (disk, first chunk, chunks)."""
        found: list[tuple[DiskNumber, int, int]] = []
        for disk, told in sorted(self._told.items()):
            edges = np.flatnonzero(np.diff(told.astype(np.int8), prepend=1, append=1)).reshape(-1, 2)
            for first, end in edges[: limit - len(found)].tolist():
                found.append((disk, first, end - first))
        return found

    def _of(self, disk: DiskNumber) -> npt.NDArray[np.bool_]:
        try:
            return self._told[disk]
        except KeyError:
            raise Malformed(
                f"Disk {disk} is not part of this epoch.", remedy="Open a new epoch with the disk."
            ) from None
