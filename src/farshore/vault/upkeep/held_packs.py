"""The chunk packs that a verification has seen, in 24 bytes each: which there are, and a digest of what they hold."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from blake3 import blake3

from farshore.formats.chunk_pack import Hashes
from farshore.formats.container import PackRows
from farshore.vault.objects.directories import PackContents
from farshore.vault.upkeep.salts import Salts, SaltSet, as_salts

_DIGEST_BYTES = 8
_UNKNOWN = bytes(_DIGEST_BYTES)


class HeldPacks:
    """``add`` first, then ask."""

    def __init__(self) -> None:
        self._added: dict[int, tuple[bytearray, bytearray]] = {}
        self._sorted: dict[int, tuple[SaltSet, npt.NDArray[np.uint64]]] = {}

    def add(self, domain: int, salt: bytes, contents: tuple[Hashes, PackRows] | None) -> None:
        """Add a pack that exists; ``contents`` is None if its index cannot be read."""
        salts, digests = self._added.setdefault(domain, (bytearray(), bytearray()))
        salts += salt
        digests += _UNKNOWN if contents is None else _digest(*contents)

    def contains(self, domain: int, salts: Salts) -> npt.NDArray[np.bool_]:
        """Return which of a domain's packs are there."""
        return self._domain(domain)[0].contains(salts)

    def agrees(self, domain: int, told: PackContents) -> bool:
        """Return whether a directory says of a pack what the pack's own index does; also if that cannot be read."""
        held, digests = self._domain(domain)
        place = int(held.places(as_salts(told.salt))[0])
        known = digests[place].tobytes() if place >= 0 else _UNKNOWN
        return known in (_UNKNOWN, _digest(told.hashes, told.rows))

    def _domain(self, domain: int) -> tuple[SaltSet, npt.NDArray[np.uint64]]:
        found = self._sorted.get(domain)
        if found is None:
            salts, digests = self._added.get(domain, (bytearray(), bytearray()))
            held = SaltSet(as_salts(salts))
            words = np.zeros(len(held), np.uint64)
            words[held.places(as_salts(salts))] = np.frombuffer(digests, np.uint64)
            found = self._sorted[domain] = held, words
        return found


def _digest(hashes: Hashes, rows: PackRows) -> bytes:
    hasher = blake3(np.ascontiguousarray(hashes[:, :16]).tobytes())
    for field in ("stored", "ordinal"):
        hasher.update(rows[field].tobytes())
    return hasher.digest(_DIGEST_BYTES)
