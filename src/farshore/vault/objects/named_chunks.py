"""The chunks that base maps name, in 12 bytes each: the number of the pack, the ordinal, the stored bytes."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from farshore.formats.base_map import INHERIT
from farshore.model.errors import Damaged
from farshore.vault.objects.base_maps import BaseMap

_WHOLE = (1 << 32) - 1
"""In the place of an ordinal: the pack is needed as a whole."""
_SORT_AT = 1 << 20
Keys = npt.NDArray[np.uint64]


class PackNumbers:
    """Numbers packs, so that several `NamedChunks` can be compared."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}
        self.names: list[str] = []

    def of(self, name: str) -> int:
        """Return the number of a pack, a new one for a new pack."""
        number = self._numbers.setdefault(name, len(self.names))
        if number == len(self.names):
            self.names.append(name)
        return number


class NamedChunks:
    """Each chunk once, whatever names it."""

    def __init__(self, numbers: PackNumbers) -> None:
        self._numbers = numbers
        self._keys: Keys = np.zeros(0, np.uint64)
        self._stored: npt.NDArray[np.uint32] = np.zeros(0, np.uint32)
        self._more: list[tuple[Keys, npt.NDArray[np.uint32]]] = []
        self._waiting = 0

    def add(self, base: BaseMap) -> None:
        """Add what a map names. Of a page that cannot be read all the map's packs are taken for needed as a whole."""
        numbers = np.array([self._numbers.of(name) for name in base.pack_names()], np.uint64)
        for page in range(-(-base.chunks // base.index.page_chunks)):
            try:
                entries = base.entries(page)
            except Damaged:
                self._add(_keys(numbers, np.full(len(numbers), _WHOLE, np.uint64)), np.zeros(len(numbers), np.uint32))
                continue
            entries = entries[entries["pack"] < INHERIT]
            self._add(_keys(numbers[entries["pack"]], entries["ordinal"].astype(np.uint64)), entries["stored"])

    def packs(self) -> set[str]:
        """Return the names of their packs."""
        self._sort()
        return {self._numbers.names[number] for number in np.unique(self._keys >> np.uint64(32)).tolist()}

    def names(self, pack: str, ordinals: npt.NDArray[np.uint32]) -> npt.NDArray[np.bool_]:
        """Return which chunks of a pack are among them."""
        self._sort()
        number = np.full(len(ordinals), self._numbers.of(pack), np.uint64)
        return _within(self._keys, _keys(number, ordinals.astype(np.uint64)))

    def stored_but(self, others: NamedChunks, packs: set[str]) -> int:
        """Return the stored bytes of those that ``others`` do not have and that are in none of ``packs``."""
        self._sort()
        others._sort()
        left = ~_within(others._keys, self._keys)
        gone = np.array(sorted(self._numbers.of(name) for name in packs), np.uint64)
        left &= ~_within(gone, self._keys >> np.uint64(32))
        return int(self._stored[left].sum(dtype=np.int64))

    def _add(self, keys: Keys, stored: npt.NDArray[np.uint32]) -> None:
        self._more.append((keys, stored.copy()))
        self._waiting += len(keys)
        if self._waiting > max(_SORT_AT, len(self._keys) // 4):
            self._sort()

    def _sort(self) -> None:
        if self._more:
            keys = np.concatenate([self._keys, *(one for one, _ in self._more)])
            stored = np.concatenate([self._stored, *(one for _, one in self._more)])
            self._more, self._waiting = [], 0
            self._keys, first = np.unique(keys, return_index=True)
            self._stored = stored[first]


def _keys(packs: Keys, ordinals: Keys) -> Keys:
    keys: Keys = packs << np.uint64(32) | ordinals
    return keys


def _within(held: Keys, keys: Keys) -> npt.NDArray[np.bool_]:
    if not len(held):
        return np.zeros(len(keys), np.bool_)
    place = np.minimum(np.searchsorted(held, keys), len(held) - 1)
    found: npt.NDArray[np.bool_] = held[place] == keys
    return found
