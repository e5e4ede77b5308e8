"""Track the sectors that have a record since data mode was entered: no block that is read from a disk may overlay them.

A write's record is drained while the write may still be in flight, so the disk's content can be older than the journal.
The pump notes every record here while it mends (pump.py). Sorted, disjoint spans in a few levels of growing size:
memory grows with the number of written places, not with the disks' size.
"""

from __future__ import annotations

from typing import Any, Dict, List

import numpy as np
import numpy.typing as npt

from farshore.formats.record import RecordKind
from farshore.mobility.stream.records import Fragments
from farshore.model.identifiers import SECTOR, DiskNumber

_Spans = npt.NDArray[np.int64]
"""Shape (n, 2): first sector, end sector."""

_CHANGES = (RecordKind.WRITE, RecordKind.ZERO, RecordKind.DISCARD)


class RecordedSectors:
    """Used by one thread."""

    def __init__(self) -> None:
        self._recent: Dict[DiskNumber, List[_Spans]] = {}
        self._levels: Dict[DiskNumber, List[_Spans]] = {}

    def add(self, fragments: Fragments) -> None:
        """Record what these fragments change. Nothing refers to ``fragments`` afterwards."""
        changing = np.isin(fragments["kind"], _CHANGES)
        disks = fragments["disk"][changing]
        first = fragments["sector"][changing].astype(np.int64)
        end = first + fragments["length"][changing].astype(np.int64) // SECTOR
        for number in np.unique(disks).tolist():
            own = disks == number
            spans = _joined(np.stack((first[own], end[own]), axis=1))
            self._recent.setdefault(DiskNumber(number), []).append(spans)

    def within(self, disk: DiskNumber, first: int, end: int) -> npt.NDArray[np.bool_]:
        """Return for each of the sectors [first, end) whether a record changes it."""
        steps = np.zeros(end - first + 1, np.int64)
        for level in self._folded(disk):
            low = int(np.searchsorted(level[:, 1], first, "right"))
            high = int(np.searchsorted(level[:, 0], end, "left"))
            spans = np.clip(level[low:high], first, end) - first
            steps[spans[:, 0]] += 1  # disjoint and not adjacent: no index comes twice
            steps[spans[:, 1]] -= 1
        recorded: npt.NDArray[np.bool_] = np.cumsum(steps[:-1]) > 0
        return recorded

    def _folded(self, disk: DiskNumber) -> List[_Spans]:
        levels = self._levels.setdefault(disk, [])
        recent = self._recent.pop(disk, None)
        if recent:
            levels.append(_joined(np.concatenate(recent)))
            while len(levels) > 1 and 2 * len(levels[-1]) >= len(levels[-2]):
                newer = levels.pop()
                levels[-1] = _joined(np.concatenate((levels[-1], newer)))
        return levels


def _joined(spans: _Spans) -> _Spans:
    if not len(spans):
        return spans
    ordered = spans[np.argsort(spans[:, 0], kind="stable")]
    reach: npt.NDArray[Any] = np.maximum.accumulate(ordered[:, 1])
    begins = np.concatenate(([True], ordered[1:, 0] > reach[:-1]))
    starts = ordered[begins, 0]
    ends = reach[np.append(np.flatnonzero(begins)[1:] - 1, len(ordered) - 1)]
    return np.stack((starts, ends), axis=1)
