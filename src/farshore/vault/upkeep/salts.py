"""Sets of chunk packs in little memory: 16 bytes each, the salt that names the pack, instead of a string of the name.

A vault of 1 TiB has about 131,000 packs. Sets of names would take some 20 MiB for each walk over them, these take 2.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

SALT_BYTES = 16
_COLLECT_AT = 1 << 16
Salts = npt.NDArray[np.uint8]
"""Shape (n, 16)."""


def as_salts(data: bytes | bytearray) -> Salts:
    """View salts that follow each other as an array. The buffer must not change its size while the array is
    used."""
    return np.frombuffer(data, np.uint8).reshape(-1, SALT_BYTES)


class SaltSet:
    """An immutable set of salts, sorted; 16 bytes each."""

    def __init__(self, salts: Salts | None = None) -> None:
        high, low = _words(np.zeros((0, SALT_BYTES), np.uint8) if salts is None else salts)
        order = np.lexsort((low, high))
        high, low = high[order], low[order]
        new = np.ones(len(high), np.bool_)
        new[1:] = (high[1:] != high[:-1]) | (low[1:] != low[:-1])
        self._high, self._low = high[new], low[new]

    @classmethod
    def of(cls, salts: Iterable[bytes]) -> SaltSet:
        """Return the set of single salts."""
        return cls(as_salts(b"".join(salts)))

    def __len__(self) -> int:
        return len(self._high)

    def __contains__(self, salt: bytes) -> bool:
        return bool(self.contains(as_salts(salt))[0])

    def __or__(self, other: SaltSet) -> SaltSet:
        return self if not len(other) else SaltSet(np.concatenate([self.salts(), other.salts()]))

    def salts(self) -> Salts:
        """Return all of them, sorted as their names are."""
        words = np.empty((len(self._high), 2), ">u8")
        words[:, 0], words[:, 1] = self._high, self._low
        return words.view(np.uint8).reshape(-1, SALT_BYTES)

    def contains(self, salts: Salts) -> npt.NDArray[np.bool_]:
        """Return which of ``salts`` are in the set."""
        return self.places(salts) >= 0

    def places(self, salts: Salts) -> npt.NDArray[np.int64]:
        """Return where in the sorted set each of ``salts`` is; -1 for one that is not in it."""
        high, low = _words(salts)
        found = np.full(len(high), -1, np.int64)
        place = np.searchsorted(self._high, high)
        pending = np.arange(len(high))
        # More than one turn only where salts share their first half, which random ones never do.
        while len(pending := pending[place[pending] < len(self._high)]):
            pending = pending[self._high[place[pending]] == high[pending]]
            same = self._low[place[pending]] == low[pending]
            found[pending[same]] = place[pending[same]]
            pending = pending[~same]
            place[pending] += 1
        return found


class SaltCollector:
    """Collects salts, many of them again and again, in memory for twice as many as differ and some."""

    def __init__(self) -> None:
        self._found = SaltSet()
        self._more: list[Salts] = []
        self._count = 0

    def add(self, salts: Salts) -> None:
        """Add some."""
        self._more.append(salts.copy())
        self._count += len(salts)
        if self._count > len(self._found) + _COLLECT_AT:
            self.collected()

    def collected(self) -> SaltSet:
        """Return all that were added."""
        self._found |= SaltSet(np.concatenate([np.zeros((0, SALT_BYTES), np.uint8), *self._more]))
        self._more, self._count = [], 0
        return self._found


def _words(salts: Salts) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]]:
    words = np.ascontiguousarray(salts).view(">u8").reshape(-1, 2)
    return words[:, 0].astype(np.uint64), words[:, 1].astype(np.uint64)
