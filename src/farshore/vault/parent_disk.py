"""The disk that a new base copy is compared with: the replica at the parent position.

A chunk that no write touched since it was copied is compared by the hash in the base map, all others by reading the
replica and hashing it. So a resync sends only what differs, and reads only what was written.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from blake3 import blake3

from farshore.formats.chunk_pack import Hashes
from farshore.model.identifiers import CHUNK
from farshore.vault.base_maps import chunk_length
from farshore.vault.view import DiskView


class ParentDisk:
    """Tells whether the chunks of a view have given hashes. Safe to use from several threads."""

    def __init__(self, view: DiskView, hash_key: bytes) -> None:
        self._view = view
        self._hash_key = hash_key

    def equal(self, first: int, hashes: Hashes, size: int) -> npt.NDArray[np.bool_]:
        """Which of the chunks from ``first`` on have these hashes; ``size`` is the disk's new size in bytes.

        A zero chunk has the zero hash. Raises Damaged where the replica cannot be read.
        """
        known, found = self._view.chunk_hashes(first, len(hashes))
        equal: npt.NDArray[np.bool_] = known & (found == hashes).all(axis=1)
        for place in np.flatnonzero(~known).tolist():
            length = chunk_length(first + place, self._view.size)
            if length > 0 and length == chunk_length(first + place, size):
                equal[place] = self._hash((first + place) * CHUNK, length) == hashes[place].tobytes()
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

    def _hash(self, offset: int, length: int) -> bytes:
        data = bytearray(length)
        self._view.read_into(offset, memoryview(data))
        return blake3(data, key=self._hash_key).digest() if data.count(0) != length else bytes(32)
