"""Which of the chunks that are being proven a record has touched, and which chunks were discarded.

The pump shows every record that it drains. A chunk that was read while nothing touched it, from before the reading to
a place in the stream, is at that place what was read.
"""

from __future__ import annotations

import threading
from typing import Dict, List, Mapping, Sequence, Tuple

import numpy as np
import numpy.typing as npt

from farshore.formats.record import RecordKind
from farshore.mobility.records import Fragments
from farshore.model.identifiers import BLOCK, CHUNK, SECTOR, DiskNumber

_SECTORS = CHUNK // SECTOR
_PER_BLOCK = BLOCK // SECTOR
_BLOCKS = CHUNK // BLOCK
_CHANGES = (RecordKind.WRITE, RecordKind.ZERO, RecordKind.DISCARD)

Chunks = npt.NDArray[np.int64]
"""Sorted numbers of chunks."""


class Watch:
    """Shown records by one thread, asked by another."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._chunks: Dict[DiskNumber, Chunks] = {}
        self._touched: Dict[DiskNumber, npt.NDArray[np.bool_]] = {}
        self._discarded: List[Tuple[DiskNumber, int, int]] = []
        self._followed: Dict[Tuple[DiskNumber, int], npt.NDArray[np.int64]] = {}
        """When each block of a chunk was written to last, ns of the monotonic clock."""

    def follow(self, chunks: Sequence[Tuple[DiskNumber, int]]) -> None:
        """Note when the blocks of these chunks, (disk, chunk), are written to from now on, and of no others."""
        with self._lock:
            known = self._followed
            self._followed = {one: known.get(one, np.zeros(_BLOCKS, np.int64)) for one in chunks}

    def written(self, disk: DiskNumber, chunk: int) -> List[int]:
        """For each block of a chunk that is followed: when it was written to last, ns; 0: not since."""
        with self._lock:
            found = self._followed.get((disk, chunk))
            return [0] * _BLOCKS if found is None else found.tolist()

    def begin(self, chunks: Mapping[DiskNumber, Chunks]) -> None:
        """Look for records to these chunks from now on, and to no others."""
        with self._lock:
            self._chunks = dict(chunks)
            self._touched = {disk: np.zeros(len(wanted), np.bool_) for disk, wanted in chunks.items()}

    def untouched(self, disk: DiskNumber) -> npt.NDArray[np.bool_]:
        """For each of the disk's chunks whether no record has touched it since ``begin``; False if none is watched."""
        with self._lock:
            touched = self._touched.get(disk)
            return np.zeros(1, np.bool_) if touched is None else ~touched

    def end(self) -> None:
        """Look for none."""
        self.begin({})

    def discarded(self) -> List[Tuple[DiskNumber, int, int]]:
        """Runs of chunks, (disk, first, end), that were discarded, wholly or in part, since this was asked last."""
        with self._lock:
            found, self._discarded = self._discarded, []
            return found

    def note(self, fragments: Fragments) -> None:
        """Records that were drained from the ring. Nothing refers to them afterwards."""
        with self._lock:
            kinds = fragments["kind"]
            if (kinds == RecordKind.DISCARD).any():
                self._note_discards(fragments[kinds == RecordKind.DISCARD])
            if not self._chunks and not self._followed:
                return
            changes = fragments[np.isin(kinds, _CHANGES)]
            for disk, wanted in self._chunks.items():
                self._note_touched(changes[changes["disk"] == disk], wanted, self._touched[disk])
            for disk in {disk for disk, _ in self._followed}:
                self._note_followed(changes[changes["disk"] == disk], disk)

    def _note_touched(self, own: Fragments, wanted: Chunks, touched: npt.NDArray[np.bool_]) -> None:
        low, high = _met(own, wanted)
        met = high > low
        steps = np.zeros(len(wanted) + 1, np.int64)
        np.add.at(steps, low[met], 1)
        np.add.at(steps, high[met], -1)
        touched |= np.cumsum(steps[:-1]) > 0

    def _note_followed(self, own: Fragments, disk: DiskNumber) -> None:
        chunks = np.array(sorted(chunk for one, chunk in self._followed if one == disk), np.int64)
        low, high = _met(own, chunks)
        for row in np.flatnonzero(high > low).tolist():
            first = int(own["sector"][row])
            end = first - (-int(own["length"][row]) // SECTOR)
            for chunk in chunks[low[row] : high[row]].tolist():
                begin = max(0, first - chunk * _SECTORS) // _PER_BLOCK
                stop = -(-min(_SECTORS, end - chunk * _SECTORS) // _PER_BLOCK)
                self._followed[disk, chunk][begin:stop] = int(own["time"][row])

    def _note_discards(self, discards: Fragments) -> None:
        first, end = _places(discards)
        for disk, low, high in zip(discards["disk"].tolist(), first.tolist(), end.tolist()):
            if self._discarded and self._discarded[-1][0] == disk and self._discarded[-1][1] <= low:
                before = self._discarded[-1]
                if low <= before[2]:
                    self._discarded[-1] = (before[0], before[1], max(before[2], high))
                    continue
            self._discarded.append((DiskNumber(disk), low, high))


def _places(fragments: Fragments) -> Tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """First chunk and end chunk of each."""
    sectors = fragments["sector"].astype(np.int64)
    ends = sectors + -(-fragments["length"].astype(np.int64) // SECTOR)
    return sectors // _SECTORS, -(-ends // _SECTORS)


def _met(own: Fragments, chunks: Chunks) -> Tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """For each of one disk's records the places [low, high) in ``chunks`` that it touches."""
    first, end = _places(own)
    return np.searchsorted(chunks, first), np.searchsorted(chunks, end)
