"""Track which of the chunks being proven a record has touched, and which chunks were discarded.

The pump shows every record that it drains. If nothing touched a chunk from before its reading up to a place in the
stream, then its content at that place is what was read.
"""

from __future__ import annotations

import threading
import time
from typing import Dict, List, Mapping, Sequence, Tuple

import numpy as np
import numpy.typing as npt

from farshore.formats.record import RecordKind
from farshore.mobility.proving.spans import Spans
from farshore.mobility.stream.records import Fragments
from farshore.model.identifiers import BLOCK, CHUNK, SECTOR, DiskNumber

_SECTORS = CHUNK // SECTOR
_PER_BLOCK = BLOCK // SECTOR
_BLOCKS = CHUNK // BLOCK
_HEADS = ("disk", "sector", "length", "time")
_HEAD = np.dtype([(name, np.int64) for name in _HEADS])
_CHANGE = np.zeros(256, np.bool_)
"""By kind of record: whether it changes the disk's content."""
_CHANGE[[RecordKind.WRITE, RecordKind.ZERO, RecordKind.DISCARD]] = True

Chunks = npt.NDArray[np.int64]
"""Sorted numbers of chunks."""


class ChunkWatch:
    """One thread shows records, another one asks."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._chunks: Dict[DiskNumber, Chunks] = {}
        self._touched: Dict[DiskNumber, npt.NDArray[np.bool_]] = {}
        self._discarded: Dict[DiskNumber, Spans[bool]] = {}
        self._followed: Dict[DiskNumber, Tuple[Chunks, npt.NDArray[np.int64]]] = {}
        """Chunks, and when each of their blocks was last written, ns of the monotonic clock: shape (chunks, 16)."""
        self._used = 0.0

    def follow(self, chunks: Sequence[Tuple[DiskNumber, int]]) -> None:
        """Record from now on when the blocks of these chunks, (disk, chunk), are written, and of no others."""
        wanted: Dict[DiskNumber, List[int]] = {}
        for disk, chunk in sorted(chunks):
            wanted.setdefault(disk, []).append(chunk)
        with self._lock:
            known, self._followed = self._followed, {}
            for disk, numbers in wanted.items():
                times = np.zeros((len(numbers), _BLOCKS), np.int64)
                before = known.get(disk)
                if before is not None:
                    _, old, new = np.intersect1d(before[0], numbers, assume_unique=True, return_indices=True)
                    times[new] = before[1][old]
                self._followed[disk] = np.array(numbers, np.int64), times

    def written(self, disk: DiskNumber, chunk: int) -> List[int]:
        """Return for each block of a followed chunk the time (ns) of the last write to a part of it; 0 if there was
        none."""
        with self._lock:
            if disk not in self._followed:
                return [0] * _BLOCKS
            chunks, times = self._followed[disk]
            place = int(np.searchsorted(chunks, chunk))
            if place == len(chunks) or chunks[place] != chunk:
                return [0] * _BLOCKS
            found: List[int] = times[place].tolist()
            return found

    def begin(self, chunks: Mapping[DiskNumber, Chunks]) -> None:
        """Look for records to exactly these chunks from now on."""
        with self._lock:
            self._chunks = dict(chunks)
            self._touched = {disk: np.zeros(len(wanted), np.bool_) for disk, wanted in chunks.items()}

    def untouched(self, disk: DiskNumber) -> npt.NDArray[np.bool_]:
        """Return for each of the disk's chunks whether no record has touched it since ``begin``; False if none is
        watched."""
        with self._lock:
            touched = self._touched.get(disk)
            return np.zeros(1, np.bool_) if touched is None else ~touched

    def end(self) -> None:
        """Stop looking for records."""
        self.begin({})

    def discarded(self) -> List[Tuple[DiskNumber, int, int]]:
        """Return runs of chunks, (disk, first, end), that were discarded completely or in part since the last call."""
        with self._lock:
            found, self._discarded = self._discarded, {}
            return [(disk, one.first, one.end) for disk, spans in found.items() for one in spans]

    def note(self, fragments: Fragments) -> None:
        """Record fragments that were drained from the ring. Keeps no reference to them."""
        with self._lock:
            kinds = fragments["kind"]
            if (kinds == RecordKind.DISCARD).any():
                self._note_discards(fragments[kinds == RecordKind.DISCARD])
            if not self._chunks and not self._followed:
                return
            began = time.thread_time()
            rows = np.flatnonzero(_CHANGE[kinds])
            changes = np.empty(len(rows), _HEAD)  # not fragments[rows]: each carries its 4 KiB
            for name in _HEADS:
                changes[name] = fragments[name][rows]
            for disk, wanted in self._chunks.items():
                self._note_touched(changes[changes["disk"] == disk], wanted, self._touched[disk])
            for disk, (chunks, times) in self._followed.items():
                _note_followed(changes[changes["disk"] == disk], chunks, times)
            self._used += time.thread_time() - began

    def used(self) -> float:
        """Return the processor seconds used for watching since the last call."""
        with self._lock:
            found, self._used = self._used, 0.0
            return found

    def _note_touched(self, own: Fragments, wanted: Chunks, touched: npt.NDArray[np.bool_]) -> None:
        low, high = _met(own, wanted)
        met = high > low
        if not met.any():
            return
        # Not np.add.at, which takes a microsecond for each record: all records of the stream pass here.
        size = len(wanted) + 1
        steps = np.bincount(low[met], minlength=size) - np.bincount(high[met], minlength=size)
        touched |= np.cumsum(steps[:-1]) > 0

    def _note_discards(self, discards: Fragments) -> None:
        first, end = _places(discards)
        for disk, low, high in zip(discards["disk"].tolist(), first.tolist(), end.tolist()):
            self._discarded.setdefault(DiskNumber(disk), discarded_spans()).put(low, high, True)


def discarded_spans() -> Spans[bool]:
    """Return the container for a disk's discarded chunks: none is dropped; beyond the limit others count as discarded
    too."""
    return Spans(lambda one, other: one and other, outwards=True)


def _note_followed(own: Fragments, chunks: Chunks, times: npt.NDArray[np.int64]) -> None:
    """Record one disk's fragments in ``times``, shape (chunks, blocks)."""
    low, high = _met(own, chunks)
    for row in np.flatnonzero(high > low).tolist():
        first = int(own["sector"][row])
        end = first + -(-int(own["length"][row]) // SECTOR)
        for place in range(low[row], high[row]):
            start = int(chunks[place]) * _BLOCKS
            low_block, high_block = first // _PER_BLOCK - start, -(-end // _PER_BLOCK) - start
            times[place, max(0, low_block) : max(0, high_block)] = int(own["time"][row])


def _places(fragments: Fragments) -> Tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return the first and the end chunk of each."""
    sectors = fragments["sector"].astype(np.int64)
    ends = sectors + -(-fragments["length"].astype(np.int64) // SECTOR)
    return sectors // _SECTORS, -(-ends // _SECTORS)


def _met(own: Fragments, chunks: Chunks) -> Tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Return for each of one disk's records the places [low, high) in ``chunks`` that it touches."""
    first, end = _places(own)
    return np.searchsorted(chunks, first), np.searchsorted(chunks, end)
