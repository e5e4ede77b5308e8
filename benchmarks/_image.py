"""The image that copies are measured with: half zero, a quarter text, a quarter random, in shuffled 1 MiB extents.

The text is made like a log: times that grow, a few hundred words, numbers. Kept in the cache folder between runs.
"""

from __future__ import annotations

import itertools
import os
import string
from pathlib import Path

import numpy as np

from farshore.lab.cache import cache_folder, only_one

EXTENT = 1 << 20
_SEED = 20261122


def image(size: int) -> Path:
    """The image of ``size`` bytes, a multiple of 4 MiB."""
    path = cache_folder() / f"half-empty-{size >> 20}m-{_SEED}.raw"
    with only_one(path.with_suffix(".lock")):
        if not path.exists():
            temporary = path.with_suffix(".part")
            _make(temporary, size)
            temporary.rename(path)
    return path


def _make(path: Path, size: int) -> None:
    random = np.random.default_rng(_SEED)
    extents = size // EXTENT
    kinds = random.permutation(np.repeat([0, 1, 2, 3], extents // 4))
    log = _Log(random)
    with path.open("wb") as file:
        os.truncate(file.fileno(), size)
        for number, kind in enumerate(kinds):
            # Zeroes are written, not left out: a machine's disk has no holes to tell a copier where nothing is.
            file.seek(number * EXTENT)
            file.write(bytes(EXTENT) if kind in (0, 3) else log.extent() if kind == 1 else random.bytes(EXTENT))
        file.flush()
        os.fsync(file.fileno())


class _Log:
    """Log-like text: lines of a time that grows, a host, a few words, and a session's token."""

    def __init__(self, random: np.random.Generator) -> None:
        self._random = random
        self._clock = 0
        self._words = np.array([f" {stem}{ending}" for stem in _STEMS for ending in _ENDINGS], object)
        self._hosts = np.array([f" host-{number} app[{number * 37 % 9000 + 1000}]:" for number in range(40)], object)
        # Three letters of 64 each: tokens made of them are as hard to compress as base64 is.
        letters = string.ascii_letters + string.digits + "-_"
        self._ids = np.array(["".join(three) for three in itertools.product(letters, repeat=3)], object)

    def extent(self) -> bytes:
        """One extent's worth."""
        random, count = self._random, EXTENT // 160
        times = self._clock + np.cumsum(random.integers(1, 2000, count))
        self._clock = int(times[-1])
        columns = [
            np.array([f"2026-11-22T{at // 3600000 % 24:02d}:{at % 3600000 / 1000:010.3f}Z" for at in times], object),
            self._hosts[random.integers(0, len(self._hosts), count)],
            *(self._words[random.zipf(1.3, count) % len(self._words)] for _ in range(6)),
            np.full(count, " session=", object),
            *(self._ids[random.integers(0, len(self._ids), count)] for _ in range(20)),
            np.full(count, "\n", object),
        ]
        return "".join(np.stack(columns, axis=1).ravel()).encode()[:EXTENT]


_STEMS = ("connect", "request", "cache", "disk", "user", "session", "block", "replic", "query", "index", "lock", "node")
_ENDINGS = ("", "ed", "ing", "ion", "or", "s", "-failed", "-ok", "_id", "_time", "able", "ment")
