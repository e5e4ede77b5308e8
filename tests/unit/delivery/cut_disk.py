"""A disk in memory that loses what was not flushed, as a power cut does, and a ledger to be cut off at."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path

from farshore.delivery.ledger import Lading, Ledger
from farshore.model.identifiers import BLOCK
from farshore.model.ports import Extent


class Cut(Exception):
    """The power is gone."""


class Power:
    """Goes at the ``at``-th moment (0: never), and stays away."""

    def __init__(self, at: int = 0) -> None:
        self.at, self.passed = at, 0
        self._lock = threading.Lock()

    def moment(self) -> None:
        with self._lock:
            self.passed += 1
            if self.at and self.passed >= self.at:
                raise Cut


class CutDisk:
    """farshore.model.ports.Destination over ``medium``, which outlives it; what waits for a flush does not."""

    def __init__(self, medium: bytearray, power: Power, *, blank: bool, identity: str = "disk 1") -> None:
        self.medium, self.power, self.blank, self.identity = medium, power, blank, identity
        self._cache = bytearray(medium)
        self._pending: list[tuple[int, bytes]] = []
        self._lock = threading.Lock()
        self.written = 0
        self.keeps_nothing_at: list[int] = []
        """Offsets whose next write is lost, though it was answered and flushed."""
        self.flushes = True

    def check_room(self, needed: int) -> None:
        assert needed <= len(self.medium)

    def write(self, offset: int, data: memoryview) -> None:
        self.power.moment()
        kept = bytes(data)
        with self._lock:
            self.written += len(kept)
            if offset in self.keeps_nothing_at:
                self.keeps_nothing_at.remove(offset)
            else:
                self._cache[offset : offset + len(kept)] = kept
                self._pending.append((offset, kept))
        self.power.moment()

    def zero(self, offset: int, length: int) -> None:
        before = self.written
        self.write(offset, memoryview(bytes(length)))
        if self.blank:
            self.written = before  # a hole

    def flush(self) -> None:
        self.power.moment()
        if self.flushes:
            with self._lock:
                self._land(self._pending)
                self._pending = []
        self.power.moment()

    def cut(self, seed: int) -> None:
        """Any of what was not flushed may have landed."""
        chance = random.Random(seed)
        self._land([one for one in self._pending if chance.random() < 0.5])

    def _land(self, writes: Iterable[tuple[int, bytes]]) -> None:
        for offset, data in writes:
            self.medium[offset : offset + len(data)] = data

    def read_into(self, offset: int, buffer: memoryview) -> None:
        buffer[:] = self._cache[offset : offset + len(buffer)]

    def extents(self, offset: int, length: int) -> Iterator[Extent]:
        yield Extent(offset, length, not any(self._cache[offset : offset + length]))

    def close(self) -> None:
        pass


class VouchingDisk(CutDisk):
    """farshore.model.ports.Vouching: each write is on the medium when it returns. ``held``, too, outlives it."""

    parallel = 4

    def __init__(self, medium: bytearray, power: Power, *, blank: bool, identity: str = "disk 1") -> None:
        super().__init__(medium, power, blank=blank, identity=identity)
        self.held: set[int] = set()
        self.sent: list[tuple[int, int]] = []
        self._seen: set[int] = set()

    def send(self, offset: int, data: memoryview) -> int:
        count = 0
        for start in range(0, len(data), BLOCK):
            piece = bytes(data[start : start + BLOCK])
            if any(piece):
                self.power.moment()
                with self._lock:
                    self.sent.append((offset + start, len(piece)))
                    self.medium[offset + start : offset + start + len(piece)] = piece
                    self.held |= set(range(offset + start, offset + start + len(piece)))
                count += len(piece)
        return count

    def zero(self, offset: int, length: int) -> None:
        self.power.moment()
        self.medium[offset : offset + length] = bytes(length)
        self.held -= set(range(offset, offset + length))

    def look(self) -> None:
        self.power.moment()
        self._seen = set(self.held)

    def holds(self, offset: int, length: int) -> int:
        return len(self._seen & set(range(offset, offset + length)))

    def read_into(self, offset: int, buffer: memoryview) -> None:
        raise AssertionError("nothing is read back")

    def flush(self) -> None:
        pass


class CutLedger(Ledger):
    """Cut off between its entries too."""

    def __init__(self, path: Path, lading: Lading, power: Power) -> None:
        self._power = power
        super().__init__(path, lading)

    def begin(self) -> None:
        self._power.moment()
        super().begin()
        self._power.moment()

    def note(self, steps: Iterable[tuple[int, bytes]]) -> None:
        for one in steps:
            self._power.moment()
            super().note([one])

    def seal(self) -> None:
        self._power.moment()
        super().seal()
        self._power.moment()
