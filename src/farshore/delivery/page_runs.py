"""Choose the pages of a part of a disk that are worth a request, and count those that a page blob holds. Pure."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from farshore.model.identifiers import BLOCK

SPARE = 32
"""Zeroes up to this fraction of the data may be sent as data, because a request costs as much as sending 64 KiB."""


def runs_to_send(data: memoryview, longest: int) -> list[tuple[int, int]]:
    """Return the runs ``[start, end)`` of ``data`` that cover all nonzero bytes, none longer than ``longest`` (a
    multiple of BLOCK). The shortest gaps between them are closed, up to the limit of SPARE."""
    edges = _edges(data)
    if not len(edges):
        return []
    starts, ends = edges[0::2], edges[1::2]
    gaps = starts[1:] - ends[:-1]
    shortest = np.argsort(gaps, kind="stable")
    closed = shortest[np.cumsum(gaps[shortest]) <= int((ends - starts).sum()) // SPARE]
    kept = np.ones(len(gaps), bool)
    kept[closed] = False
    found: list[tuple[int, int]] = []
    for start, end in zip(
        starts[np.concatenate(([True], kept))].tolist(), ends[np.concatenate((kept, [True]))].tolist(), strict=True
    ):
        found += [(place, min(place + longest, end)) for place in range(start, end, longest)]
    return found


def _edges(data: memoryview) -> npt.NDArray[np.int64]:
    """Return the starts and ends, alternating, of the runs of nonzero blocks; the last block may be short."""
    whole = len(data) // BLOCK * BLOCK
    used = np.frombuffer(data[:whole], np.uint64).reshape(-1, BLOCK // 8).any(axis=1)
    if whole < len(data):
        used = np.append(used, any(data[whole:]))
    turns = np.flatnonzero(np.diff(np.concatenate(([False], used, [False])).astype(np.int8)))
    return np.minimum(turns * BLOCK, len(data))


class Held:
    """The ranges ``[start, end)`` that a blob holds, in any order; neighbours need not be merged."""

    def __init__(self, ranges: Iterable[tuple[int, int]]) -> None:
        pairs = np.array(sorted(ranges), np.int64).reshape(-1, 2)
        first = np.ones(len(pairs), bool)
        first[1:] = pairs[1:, 0] > np.maximum.accumulate(pairs[:, 1])[:-1]
        places = np.flatnonzero(first)
        self._starts = pairs[places, 0]
        self._ends = np.maximum.reduceat(pairs[:, 1], places) if len(pairs) else pairs[:, 1]
        self._before = np.concatenate(([0], np.cumsum(self._ends - self._starts)))

    def count(self, offset: int, length: int) -> int:
        """Return how many bytes of ``[offset, offset + length)`` are held."""
        return self._up_to(offset + length) - self._up_to(offset)

    def ranges(self, offset: int, length: int) -> list[tuple[int, int]]:
        """Return the ranges within ``[offset, offset + length)``, merged and in order."""
        end = offset + length
        low, high = np.searchsorted(self._ends, offset, "right"), np.searchsorted(self._starts, end, "left")
        return [
            (max(int(start), offset), min(int(stop), end))
            for start, stop in zip(self._starts[low:high], self._ends[low:high], strict=True)
        ]

    def _up_to(self, place: int) -> int:
        """Return how many bytes before ``place`` are held."""
        index = int(np.searchsorted(self._starts, place, "right"))
        if not index:
            return 0
        return int(self._before[index]) - max(0, int(self._ends[index - 1]) - place)
