"""Which runs are merged, and the merge itself. Memory: what the new run keeps in it (1.5 bytes an entry), and 10 MiB.

Runs are of size classes, each FAN times the one before. The newest FAN of one class, with smaller ones among and behind
them, become one. So an entry is written once for each class, and the runs are a few of each class.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from farshore.vault.chunk_index.entries import ENTRY, Entries, Mask
from farshore.vault.chunk_index.run import SortedRun
from farshore.vault.upkeep.salts import Salts

FAN = 4
_STEP = 1 << 16
"""Entries merged at once: some 10 MiB of memory."""


def due(counts: Sequence[int], smallest: int) -> int:
    """Return how many of the newest runs are to be merged, by the entries of each, the oldest first; 0 if none are."""
    classes = [_class(count, smallest) for count in counts]
    most = newest = same = size = 0
    for number, one in enumerate(reversed(classes)):
        if one > size:
            size, same = one, 0
        same += one == size
        newest = number + 1
        if same >= FAN:
            most = newest
    return most


def _class(count: int, smallest: int) -> int:
    size = 0
    while count >= 2 * smallest:
        count //= FAN
        size += 1
    return size


class Merge:
    """Some runs, the oldest first, made one. ``salts`` and ``numbers`` leave out packs that were dead when it began."""

    def __init__(self, runs: Sequence[SortedRun]) -> None:
        self.runs = runs
        self.most = sum(run.count for run in runs)
        self._dead: list[Mask] = [run.dead.copy() for run in runs]
        self._numbers = []
        first = 0
        for dead in self._dead:
            self._numbers.append((first + np.cumsum(~dead) - 1).astype(np.uint32))
            first += int(np.count_nonzero(~dead))
        self.salts: Salts = np.concatenate([run.salts[~dead] for run, dead in zip(runs, self._dead, strict=True)])

    def parts(self) -> Iterator[Entries]:
        """Yield the entries in order, of the equal ones the oldest. Raises Untrusted."""
        steps = max(1, -(-self.most // _STEP))
        for step in range(steps):
            low, high = (step << 64) // steps, ((step + 1) << 64) // steps
            entries = np.concatenate([np.zeros(0, ENTRY), *self._alive(low, high)])
            entries = entries[np.argsort(entries["high"], kind="stable")]
            if len(entries):
                yield entries[np.concatenate(([True], entries["high"][1:] != entries["high"][:-1]))]

    def _alive(self, low: int, high: int) -> Iterator[Entries]:
        for run, dead, numbers in zip(self.runs, self._dead, self._numbers, strict=True):
            entries = run.between(low, high)
            entries = entries[~dead[entries["pack"]]]
            entries["pack"] = numbers[entries["pack"]]
            yield entries

    def dead_since(self) -> Mask:
        """Return, by the new numbers, the packs that died while the merge ran."""
        return np.concatenate([run.dead[~dead] for run, dead in zip(self.runs, self._dead, strict=True)])
