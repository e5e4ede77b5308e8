"""One entry for each chunk, and small sorted arrays of them: what was published lately."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from farshore.formats.chunk_pack import LOCATOR, Hashes, Locators
from farshore.vault.upkeep.salts import Salts, SaltSet, as_salts

ENTRY: np.dtype[Any] = np.dtype(
    [("high", "<u8"), ("low", "<u8"), ("pack", "<u4"), ("ordinal", "<u4"), ("offset", "<u4"), ("stored", "<u4")]
)
"""A chunk: the first 16 bytes of its hash, the number of its pack in a table of salts, and its place in the pack."""
Entries = npt.NDArray[Any]
Words = npt.NDArray[np.uint64]
Mask = npt.NDArray[np.bool_]


def hash_words(hashes: Hashes) -> tuple[Words, Words]:
    """Return the first 16 bytes of each hash as two words: enough that keyed hashes never meet by chance."""
    words = np.ascontiguousarray(hashes[:, :16]).view("<u8").reshape(-1, 2)
    return words[:, 0].astype(np.uint64), words[:, 1].astype(np.uint64)


def entries_of(hashes: Hashes, locators: Locators, pack: int) -> Entries:
    """Return the entries of one pack's chunks."""
    entries = np.zeros(len(hashes), ENTRY)
    entries["high"], entries["low"] = hash_words(hashes)
    entries["pack"] = pack
    for field in ("ordinal", "offset", "stored"):
        entries[field] = locators[field]
    return entries


def locators_of(entries: Entries, salts: Salts) -> Locators:
    """Return where these chunks are."""
    locators = np.zeros(len(entries), LOCATOR)
    locators["salt"] = np.ascontiguousarray(salts[entries["pack"]]).view("V16")[:, 0]
    for field in ("ordinal", "offset", "stored"):
        locators[field] = entries[field]
    return locators


def merged(older: Entries, newer: Entries) -> Entries:
    """Return all entries, sorted by ``high``. Of two chunks with the same hash the older stays: base maps are likelier
    to name it."""
    entries = np.concatenate([older, newer])
    entries = entries[np.argsort(entries["high"], kind="stable")]
    return entries[np.concatenate(([True], entries["high"][1:] != entries["high"][:-1]))] if len(entries) else entries


class Pieces(NamedTuple):
    """What a search needs of `Recent`: sorted arrays, the oldest first."""

    pieces: tuple[tuple[Words, Entries], ...]
    """Each with its ``high`` words by themselves, which are searched."""
    dead: Mask
    salts: Salts

    def find(self, high: Words, low: Words) -> tuple[Mask, Locators]:
        """Return which chunks are here, and where."""
        found = np.zeros(len(high), np.bool_)
        locators = np.zeros(len(high), LOCATOR)
        for words, piece in self.pieces:
            if len(piece):
                place = np.minimum(np.searchsorted(words, high), len(piece) - 1)
                rows = piece[place]
                here = ~found & (rows["high"] == high) & (rows["low"] == low) & ~self.dead[rows["pack"]]
                locators[here] = locators_of(rows[here], self.salts)
                found |= here
        return found, locators


class Recent:
    """Entries in memory, in pieces whose sizes fall by half or more: publishing merges few, a search looks at few.

    Not safe by itself: its owner locks. Pieces are replaced, never changed, so that a search may go on without the
    lock.
    """

    def __init__(self) -> None:
        self._pieces: tuple[tuple[Words, Entries], ...] = ()
        self._salts = bytearray()
        self._dead = bytearray()
        self.count = 0
        """Entries added, those of dropped packs too."""

    def add(self, salt: bytes, hashes: Hashes, locators: Locators) -> None:
        """Add a pack's chunks."""
        piece = merged(np.zeros(0, ENTRY), entries_of(hashes, locators, len(self._dead)))
        # New buffers: a search that goes on has views of the old ones.
        self._salts = self._salts + salt
        self._dead = self._dead + b"\0"
        pieces = list(self._pieces)
        while pieces and len(pieces[-1][1]) < 2 * len(piece):
            piece = merged(pieces.pop()[1], piece)
        self._pieces = (*pieces, (piece["high"].copy(), piece))
        self.count += max(1, len(hashes))

    @property
    def salts(self) -> Salts:
        """The packs, by their numbers."""
        return as_salts(self._salts)

    @property
    def dead(self) -> Mask:
        """Packs whose chunks are not found any more, by number; may be written to."""
        return np.frombuffer(self._dead, np.bool_)

    def drop(self, gone: SaltSet) -> None:
        """Remove the chunks of these packs from what can be found."""
        self.dead[gone.contains(self.salts)] = True
        # At once, or the dead one of two equal chunks would be taken for the older one that stays.
        alive = (piece[~self.dead[piece["pack"]]] for _, piece in self._pieces)
        self._pieces = tuple((piece["high"].copy(), piece) for piece in alive)

    def pieces(self) -> Pieces:
        """Return what is here now."""
        return Pieces(self._pieces, self.dead, self.salts)

    def all(self) -> Entries:
        """Return every entry, sorted."""
        found = np.zeros(0, ENTRY)
        for _, piece in self._pieces:
            found = merged(found, piece)
        return found
