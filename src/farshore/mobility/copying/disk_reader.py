"""Read a disk past the page cache: the device's content, into aligned memory.

The block device's own page cache becomes stale while a file system is mounted on it, so every read is O_DIRECT.
"""

from __future__ import annotations

import mmap
import os
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Optional, Tuple, Type

from farshore.model.errors import Damaged
from farshore.model.identifiers import DiskNumber


@dataclass(frozen=True)
class CopiedDisk:
    """A disk to copy. ``size`` in bytes; ``excluded``: byte ranges (start, end) whose contents read as zeroes."""

    number: DiskNumber
    path: Path
    size: int
    excluded: Tuple[Tuple[int, int], ...] = ()


class AlignedBuffer:
    """Page-aligned memory that O_DIRECT can read into; ``size`` is a multiple of 4096."""

    def __init__(self, size: int) -> None:
        self._memory = mmap.mmap(-1, size)
        self.view = memoryview(self._memory)


class DiskReader:
    """An open disk."""

    def __init__(self, disk: CopiedDisk) -> None:
        """Raises Damaged if it cannot be opened, for example because it is gone."""
        self.disk = disk
        try:
            self._descriptor = os.open(disk.path, os.O_RDONLY | os.O_DIRECT | os.O_CLOEXEC)
        except OSError as error:
            raise self._failed(0, error.strerror) from error

    def read(self, offset: int, view: memoryview) -> None:
        """Fill ``view`` from ``offset``, both multiples of 4096 (except at the disk's end). Raises Damaged."""
        done = 0
        while done < len(view):
            try:
                count = os.preadv(self._descriptor, [view[done:]], offset + done)
            except OSError as error:
                raise self._failed(offset + done, error.strerror) from error
            if count <= 0:
                raise self._failed(offset + done, "the disk ends there")
            done += count
        self._blank(offset, view)

    def close(self) -> None:
        """Close the device."""
        os.close(self._descriptor)

    def __enter__(self) -> DiskReader:
        return self

    def __exit__(
        self, kind: Optional[Type[BaseException]], value: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        self.close()

    def _blank(self, offset: int, view: memoryview) -> None:
        end = offset + len(view)
        for start, stop in self.disk.excluded:
            low, high = max(start, offset), min(stop, end)
            if low < high:
                view[low - offset : high - offset] = bytes(high - low)

    def _failed(self, offset: int, why: object) -> Damaged:
        return Damaged(
            f"{self.disk.path} cannot be read at byte {offset}: {why}.",
            remedy="Check the disk (dmesg, smartctl). Protection continues once it can be read.",
        )
