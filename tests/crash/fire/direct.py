"""A writer of direct I/O to a raw disk: several writes at once, over each other, from memory in pieces, some refused.

Every sector says which write it is of. What a point may hold is judged sector by sector, by what the writer saw: which
writes had ended before another began, and which were in flight together. The latter may have landed in any order.
The disk takes few requests at once and small ones, so writes are split, wait, and are refused where they may not wait.
"""

from __future__ import annotations

import contextlib
import itertools
import mmap
import os
import random
import threading
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from time import time_ns

import numpy as np
import numpy.typing as npt
from tests.loopdisks import LoopDisk, read_direct
from tests.waiting import PATIENCE

SECTOR = 512
AREA = 4 << 20
SECTORS = AREA // SECTOR
NAME = "direct"
_HOT = 512
"""Sectors at the beginning where most writes go, so that they meet."""
_MOST = 64
"""Sectors of a write."""
_TOGETHER = 5
_ARENA = 1 << 20
_MAGIC = 0xFA12D15C << 32
_RWF_NOWAIT = 8
_FOR_EVER = 1 << 62
_SETTINGS = {"nr_requests": "4", "max_sectors_kb": "16"}

Numbers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Order:
    """A write to be done. ``pieces``: (offset in memory, bytes) of each."""

    first: int
    pieces: tuple[tuple[int, int], ...]
    wait: bool = True

    @property
    def sectors(self) -> int:
        return sum(length for _, length in self.pieces) // SECTOR


def sectors(number: int, first: int, count: int) -> bytes:
    """What write ``number`` puts into ``count`` sectors."""
    content = np.empty((count, SECTOR // 16, 2), np.uint64)
    content[:, :, 0] = number
    content[:, :, 1] = (np.arange(first, first + count, dtype=np.uint64) | np.uint64(_MAGIC))[:, None]
    return content.tobytes()


def read_sectors(data: npt.NDArray[np.uint8]) -> tuple[Numbers, list[str]]:
    """The number of the write in each sector of the area, and what is wrong with the disk: sectors of two writes or of
    another place, or anything behind the area."""
    content = data[:AREA].view(np.uint64).reshape(SECTORS, SECTOR // 16, 2)
    places = np.arange(SECTORS, dtype=np.uint64) | np.uint64(_MAGIC)
    torn = (content != np.stack([content[:, 0, 0], places], axis=1)[:, None, :]).any(axis=(1, 2))
    wrong = [f"sector {at} of the raw disk is torn or of another place" for at in np.flatnonzero(torn)[:3]]
    if data[AREA:].any():
        wrong.append(f"byte {AREA + int(np.flatnonzero(data[AREA:])[0])} of the raw disk was never written to")
    return content[:, 0, 0].astype(np.int64), wrong


class Log:
    """Writes are numbered from 1 in the order in which they began. Beginnings and ends are events, counted from 1."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._times: list[int] = []
        """ns since 1970 UTC of each event."""
        # Write 0 put the first content everywhere.
        self._places: list[tuple[int, int]] = [(0, SECTORS)]
        self._begun: list[int] = [0]
        self._ended: list[int] = [0]
        """By number; _FOR_EVER while a write is in flight."""
        self._refused: set[int] = set()

    def begin(self, first: int, count: int) -> int:
        """A write is about to be submitted; its number."""
        with self._lock:
            self._places.append((first, first + count))
            self._begun.append(self._event())
            self._ended.append(_FOR_EVER)
            return len(self._places) - 1

    def end(self, number: int, *, landed: bool) -> None:
        """A write is on the disk, or it has been refused and never will be."""
        with self._lock:
            self._ended[number] = self._event()
            if not landed:
                self._refused.add(number)

    def _event(self) -> int:
        self._times.append(time_ns())
        return len(self._times)

    @property
    def events(self) -> int:
        """How many there have been."""
        return len(self._times)

    @property
    def refused(self) -> int:
        """How many writes were."""
        return len(self._refused)

    def before(self, moment: int) -> int:
        """How many events there had been before ``moment``."""
        return bisect_left(self._times, moment)

    def until(self, moment: int) -> int:
        """How many there had been when ``moment`` was over."""
        return bisect_right(self._times, moment)

    def judge(self, found: Numbers, at_least: int, newest: int) -> list[str]:
        """What is wrong with a state that holds all that had ended at event ``at_least``, and nothing that began after
        event ``newest``. ``found``: the write in each sector.

        What a write that is there has seen ended when it began must be there too, so nothing may be in a sector that
        such a write to it has replaced: one that began when the other had ended.
        """
        with self._lock:
            begun, ended = np.array(self._begun), np.array(self._ended)
            places, refused = np.array(self._places), np.array(sorted(self._refused), np.int64)
        at = np.arange(SECTORS)
        unknown = (found < 0) | (found >= len(begun))
        known = np.where(unknown, 0, found)
        elsewhere = unknown | (at < places[known, 0]) | (at >= places[known, 1])
        wrong = [f"sector {one} of the raw disk holds write {found[one]}, not made there" for one in at[elsewhere]]
        for one in at[np.isin(known, refused) & ~elsewhere]:
            wrong.append(f"sector {one} of the raw disk holds write {found[one]}, which was refused")
        for one in at[(begun[known] > newest) & ~elsewhere]:
            wrong.append(f"sector {one} of the raw disk holds write {found[one]}, which began later")
        replaced = self._replaced(max(at_least, int(begun[known].max())))
        for one in at[(ended[known] < replaced) & ~elsewhere]:
            wrong.append(f"sector {one} of the raw disk holds write {found[one]}, which had been replaced")
        return wrong[:5]

    def contested(self, found: Numbers, disk: Numbers) -> tuple[int, list[str]]:
        """Hold a state of a moment without writes against the disk's: in how many sectors they differ and may, as the
        last writes to them were in flight together; and where they may not."""
        replaced = self._replaced(self.events)
        ended = np.array(self._ended)
        differ = found != disk
        excused = differ & (ended[found] >= replaced) & (ended[disk] >= replaced)
        wrong = [
            f"sector {one} of the raw disk holds write {found[one]}, the disk write {disk[one]}"
            for one in np.flatnonzero(differ & ~excused)[:5]
        ]
        return int(excused.sum()), wrong

    def _replaced(self, event: int) -> Numbers:
        """The event for each sector at which the newest write began that had landed there by ``event``."""
        newest = np.zeros(SECTORS, np.int64)
        with self._lock:
            for number, (first, end) in enumerate(self._places):
                if self._ended[number] <= event and number not in self._refused:
                    newest[first:end] = self._begun[number]
        return newest


class DirectWriter:
    """Fills the area of a raw disk, and writes to it from several threads at once, ``pause`` seconds apart."""

    def __init__(self, disk: LoopDisk, seed: int, *, pause: float = 0.03) -> None:
        self.log = Log()
        self.failure: BaseException | None = None
        self._disk = disk
        self._random = random.Random(seed)
        self._pause = pause
        self.running = threading.Event()
        self._turn = threading.Lock()
        """Held while writes are in flight."""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, name=NAME, daemon=True)
        for setting, value in _SETTINGS.items():
            Path("/sys/block", disk.device.name, "queue", setting).write_text(value)
        disk.write(0, sectors(0, 0, SECTORS))

    def reseed(self, seed: int) -> None:
        """The seed decides where the writes from now on go."""
        self._random = random.Random(seed)

    def start(self) -> None:
        """Begin to write."""
        self.running.set()
        self._thread.start()

    def stop(self) -> None:
        """End after the writes in hand."""
        self._stop.set()
        self.running.set()
        if self._thread.is_alive():
            self._thread.join(60)

    @contextlib.contextmanager
    def at_rest(self) -> Iterator[npt.NDArray[np.uint8]]:
        """No write is in flight meanwhile; what the disk holds."""
        assert self._turn.acquire(timeout=PATIENCE), "a write to the raw disk does not end"
        try:
            yield read_direct(self._disk.device)
        finally:
            self._turn.release()

    def _work(self) -> None:
        descriptor = os.open(self._disk.device, os.O_WRONLY | os.O_DIRECT)
        try:
            with ThreadPoolExecutor(_TOGETHER) as threads:
                memories = [mmap.mmap(-1, _ARENA) for _ in range(_TOGETHER)]
                while not self._stop.is_set():
                    self.running.wait()
                    orders = [order(self._random) for _ in range(_TOGETHER)]
                    with self._turn:
                        list(threads.map(self._write, itertools.repeat(descriptor), orders, memories))
                    self._stop.wait(self._pause)
        except BaseException as error:  # noqa: BLE001 - told at the end of the round
            self.failure = error
        finally:
            os.close(descriptor)

    def _write(self, descriptor: int, wanted: Order, memory: mmap.mmap) -> None:
        number = self.log.begin(wanted.first, wanted.sectors)
        data = memoryview(sectors(number, wanted.first, wanted.sectors))
        done = 0
        for at, length in wanted.pieces:
            memory[at : at + length] = data[done : done + length]
            done += length
        views = [memoryview(memory)[at : at + length] for at, length in wanted.pieces]
        landed = False
        with contextlib.suppress(*may_refuse(wanted)):
            written = os.pwritev(descriptor, views, wanted.first * SECTOR, 0 if wanted.wait else _RWF_NOWAIT)
            assert written == len(data), f"{written} of {len(data)} bytes"
            landed = True
        self.log.end(number, landed=landed)


def may_refuse(wanted: Order) -> tuple[type[OSError], ...]:
    """How a disk may refuse a write: it may not wait and would have to, or not every disk takes such memory."""
    if any(at % SECTOR or length % SECTOR for at, length in wanted.pieces):
        return (OSError,)
    return () if wanted.wait else (BlockingIOError,)


def order(chance: random.Random) -> Order:
    """The next write."""
    kind = chance.choices(("hot", "anywhere", "not waiting", "cut sectors"), (5, 2, 4, 1))[0]
    if kind == "not waiting":
        # One block, which is never split, so it is refused as a whole.
        return Order(8 * chance.randrange(SECTORS // 8), ((0, 8 * SECTOR),), wait=False)
    if kind == "cut sectors":
        at = 4 * chance.randrange(1, 128)
        pieces = chance.choice((((at, 8 * SECTOR),), ((at, 100), (8192, 412)), ((0, 508), (4096, 516))))
        return Order(8 * chance.randrange(SECTORS // 8), pieces)
    count = chance.randint(1, _MOST)
    first = chance.randrange((_HOT if kind == "hot" else SECTORS) - count)
    edges = sorted({0, count, *(chance.randint(0, count) for _ in range(chance.randrange(6)))})
    at, placed = 0, []
    for low, high in itertools.pairwise(edges):
        at += SECTOR * chance.randint(0, 16)
        placed.append((at, SECTOR * (high - low)))
        at += SECTOR * (high - low)
    return Order(first, tuple(placed))
