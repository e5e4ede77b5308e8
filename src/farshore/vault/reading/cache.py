"""A bounded cache of opened packs and pages, shared by the views of one vault."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Callable

import numpy as np
import numpy.typing as npt

from farshore.formats.batch import Buffer
from farshore.vault.objects.opening import OpenedObject

Bytes = npt.NDArray[np.uint8]


class PackCache:
    """Keeps the packs used last, ``limit`` bytes of plaintext at most. Safe to use from several threads."""

    def __init__(self, limit: int = 64 << 20) -> None:
        self._limit = limit
        self._held: OrderedDict[tuple[str, int], Bytes] = OrderedDict()
        self._size = 0
        self._lock = threading.Lock()

    def get(self, name: str, number: int) -> Bytes | None:
        """Return the pack, where it is held."""
        with self._lock:
            found = self._held.get((name, number))
            if found is not None:
                self._held.move_to_end((name, number))
            return found

    def put(self, name: str, number: int, data: Buffer) -> Bytes:
        """Hold a pack; older ones go."""
        found = np.frombuffer(data, np.uint8)
        with self._lock:
            if (name, number) not in self._held:
                self._held[name, number] = found
                self._size += len(found) + 200
            while self._size > self._limit:
                _, old = self._held.popitem(last=False)
                self._size -= len(old) + 200
        return found

    def load(self, name: str, number: int, read: Callable[[], Buffer]) -> Bytes:
        """Return the pack from the cache, or read and then held."""
        found = self.get(name, number)
        return self.put(name, number, read()) if found is None else found


class SourceCache:
    """Keeps the opened indexes of the ``limit`` objects used last. Safe to use from several threads."""

    def __init__(self, limit: int = 512) -> None:
        self._limit = limit
        self._held: OrderedDict[str, OpenedObject] = OrderedDict()
        self._lock = threading.Lock()

    def load(self, name: str, read: Callable[[], OpenedObject]) -> OpenedObject:
        """Return the opened object from the cache, or read and then held."""
        with self._lock:
            found = self._held.get(name)
            if found is not None:
                self._held.move_to_end(name)
                return found
        found = read()
        found.forget_index()
        with self._lock:
            self._held[name] = found
            while len(self._held) > self._limit:
                self._held.popitem(last=False)
        return found
