"""A disk in memory that loses what was not flushed, as a power cut does: a double of TargetDisk, for one attempt."""

from __future__ import annotations

import random
from pathlib import Path

from farshore.model.identifiers import SECTOR


class Cut(Exception):
    """The power is gone."""


class Power:
    """Goes at the ``at``-th moment (0: never), and stays away. ``steps`` are the moments that the record, its list and
    flushes are; the others are writes."""

    def __init__(self, at: int = 0) -> None:
        self.at, self.passed = at, 0
        self.steps: list[int] = []

    def moment(self, _name: str = "") -> None:
        self.passed += 1
        if self.at and self.passed >= self.at:
            raise Cut

    def durable(self, name: str) -> None:
        self.steps.append(self.passed + 1)
        self.moment(name)


class CutTarget:
    """``medium`` outlives it; what waits for a flush does not, or in part."""

    def __init__(self, medium: bytearray, power: Power, *, flushes: bool = True) -> None:
        self.medium, self.power, self.flushes = medium, power, flushes
        self.path, self.identity, self.size = Path("/dev/old"), "device 8:16", len(medium)
        self._cache = bytearray(medium)
        self._pending: list[tuple[int, bytes]] = []
        self.written = 0

    def head(self, length: int) -> bytes:
        return bytes(self._cache[:length])

    def read_into(self, offset: int, buffer: memoryview) -> None:
        buffer[:] = self._cache[offset : offset + len(buffer)]

    def write(self, offset: int, *pieces: object) -> int:
        self.power.moment()
        data = b"".join(bytes(piece) for piece in pieces)  # type: ignore[call-overload]
        assert offset + len(data) <= self.size
        self._cache[offset : offset + len(data)] = data
        self._pending.append((offset, data))
        self.written += len(data)
        return len(data)

    def zero(self, start: int, end: int) -> int:
        if end > start:
            self.write(start, bytes(end - start))
        return 0

    def begin_writeback(self, offset: int, length: int) -> None:
        pass

    def flush(self) -> None:
        if self.flushes:
            for offset, data in self._pending:
                self.medium[offset : offset + len(data)] = data
            self._pending = []

    def cut(self, seed: int) -> None:
        """Any sectors of what was not flushed may have landed, in any order."""
        chance = random.Random(seed)
        chance.shuffle(self._pending)
        for offset, data in self._pending:
            for start in range(0, len(data), SECTOR):
                if chance.random() < 0.5:
                    piece = data[start : start + SECTOR]
                    self.medium[offset + start : offset + start + len(piece)] = piece

    def close(self) -> None:
        pass
