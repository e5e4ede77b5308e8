"""A source in memory, for tests: its bytes, how often it was read, and errors to raise."""

from __future__ import annotations

import re
from collections.abc import Iterator

from farshore.model.ports import Extent


class MemorySource:
    """``data`` as a disk; runs of 512 zero bytes are known to be zero. ``errors`` are raised first, one a read."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.reads = 0
        self.errors: list[Exception] = []
        self.closed = False

    @property
    def size(self) -> int:
        return len(self.data)

    def read_into(self, offset: int, buffer: memoryview) -> None:
        self.reads += 1
        if self.errors:
            raise self.errors.pop(0)
        assert offset + len(buffer) <= len(self.data)
        buffer[:] = self.data[offset : offset + len(buffer)]

    def extents(self, offset: int, length: int) -> Iterator[Extent]:
        zero = bytes(1) * length == self.data[offset : offset + length]
        if zero or length <= 512:
            yield Extent(offset, length, zero)
            return
        pieces = [
            (start, min(512 - start % 512, offset + length - start))
            for start in sorted({offset, *range(-(-offset // 512) * 512, offset + length, 512)})
        ]
        marks = "".join("z" if not any(self.data[start : start + count]) else "d" for start, count in pieces)
        for run in re.finditer("z+|d+", marks):
            first, last = pieces[run.start()], pieces[run.end() - 1]
            yield Extent(first[0], last[0] + last[1] - first[0], marks[run.start()] == "z")

    def close(self) -> None:
        self.closed = True
