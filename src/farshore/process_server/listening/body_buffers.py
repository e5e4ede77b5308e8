"""Reusable memory for request bodies: the buffer that was returned last is reused first, because it may be in the
processor's cache."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

import numpy as np

KEPT_BYTES = 64 << 20
_SMALLEST = 64 << 10


class BodyBuffers:
    """Keeps up to ``limit`` bytes of unused buffers. Safe to use from several threads."""

    def __init__(self, limit: int = KEPT_BYTES) -> None:
        self._limit = limit
        self._idle: list[memoryview] = []
        self._kept = 0
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def lend(self, length: int) -> Iterator[memoryview]:
        """Yield ``length`` bytes of undefined contents, until the context ends."""
        buffer = self._take(length)
        try:
            yield buffer[:length]
        finally:
            self._give_back(buffer)

    def _take(self, length: int) -> memoryview:
        with self._lock:
            for place in range(len(self._idle) - 1, -1, -1):
                if len(self._idle[place]) >= length:
                    found = self._idle.pop(place)
                    self._kept -= len(found)
                    return found
        # A power of two and a little more: bodies are a power of two with a head before it.
        power = 1 << max(length - 1, _SMALLEST - 1).bit_length()
        roomy = power // 2 + power // 16
        # Not a bytearray, which is cleared: declared memory that is not filled yet takes no space.
        return np.empty(roomy if roomy >= length else power, np.uint8).data

    def _give_back(self, buffer: memoryview) -> None:
        with self._lock:
            self._idle.append(buffer)
            self._kept += len(buffer)
            while self._kept > self._limit:
                self._kept -= len(self._idle.pop(0))
