"""The disk that a new base copy is compared with: the replica at the parent position.

A chunk that no write touched since it was copied is compared by the hash in the base map, all others by reading the
replica and hashing it. So a resync sends only what differs, and reads only what was written. A chunk that cannot be
read, or whose bytes lie in an object that is known to be damaged, differs: that is how a resync heals.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Set

import numpy as np
import numpy.typing as npt
from blake3 import blake3

from farshore.formats.batch import Buffer
from farshore.formats.chunk_pack import Hashes
from farshore.model.errors import Damaged
from farshore.model.identifiers import CHUNK
from farshore.vault.objects.base_maps import chunk_length
from farshore.vault.reading.view import DiskView

_RUN_CHUNKS = 64
"""Neighbours that are read together: 4 MiB, so that what lies together in the store is asked for at once."""


class ParentDisk:
    """Tells whether the chunks of a view have given hashes. Safe to use from several threads."""

    def __init__(self, view: DiskView, hash_key: bytes, damaged: Set[str] = frozenset()) -> None:
        self._view = view
        self._hash_key = hash_key
        self._damaged = damaged

    def equal(self, first: int, hashes: Hashes, size: int) -> npt.NDArray[np.bool_]:
        """Return which of the chunks from ``first`` on have these hashes; ``size`` is the disk's new size in bytes.

        A zero chunk has the zero hash. Raises the store's errors.
        """
        try:
            known, found = self._view.chunk_hashes(first, len(hashes))
            if self._damaged:
                known &= ~self._view.chunks_in(first, len(hashes), self._damaged)
        except Damaged:
            if len(hashes) == 1:
                return np.zeros(1, np.bool_)
            half = len(hashes) // 2
            parts = (self.equal(first, hashes[:half], size), self.equal(first + half, hashes[half:], size))
            return np.concatenate(parts)
        equal: npt.NDArray[np.bool_] = known & (found == hashes).all(axis=1)
        read = [
            place
            for place in np.flatnonzero(~known).tolist()
            if 0 < chunk_length(first + place, self._view.size) == chunk_length(first + place, size)
        ]
        for low, high in _neighbours(read, _RUN_CHUNKS):
            self._compare(first, low, high, hashes, equal)
        short = [
            place
            for place in range(len(hashes))
            if chunk_length(first + place, self._view.size) != chunk_length(first + place, size)
        ]
        equal[short] = False
        return equal

    def close(self) -> None:
        """Release the view."""
        self._view.close()

    def _compare(self, first: int, low: int, high: int, hashes: Hashes, equal: npt.NDArray[np.bool_]) -> None:
        """Read the chunks [low, high) behind ``first`` together; those that cannot be read are not equal."""
        offset = (first + low) * CHUNK
        data = memoryview(bytearray(min((high - low) * CHUNK, self._view.size - offset)))
        try:
            self._view.read_into(offset, data)
        except Damaged:
            if high - low > 1:
                middle = (low + high) // 2
                self._compare(first, low, middle, hashes, equal)
                self._compare(first, middle, high, hashes, equal)
            return
        for place in range(low, high):
            start = (place - low) * CHUNK
            equal[place] = chunk_hash(self._hash_key, data[start : start + CHUNK]) == hashes[place].tobytes()


def _neighbours(places: Sequence[int], most: int) -> Iterator[tuple[int, int]]:
    """(low, high) of each run of neighbours in sorted numbers, at most ``most`` long."""
    low = high = -1
    for place in places:
        if place != high or high - low == most:
            if high > low:
                yield low, high
            low = place
        high = place + 1
    if high > low:
        yield low, high


def chunk_hash(hash_key: bytes, data: Buffer) -> bytes:
    """Return the hash by which a vault knows a chunk; zeroes for a chunk of zeroes."""
    return blake3(data, key=hash_key).digest() if np.frombuffer(data, np.uint8).any() else bytes(32)
