"""A store that counts what is read through it: what proofs cost at the vault is told with each answer."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence

from farshore.formats.batch import Buffer
from farshore.vault.stores.port import Listed, Store


class CountedStore:
    """A Store (see vault.stores.port). Safe to use from several threads."""

    def __init__(self, inner: Store) -> None:
        self._inner = inner
        self._lock = threading.Lock()
        self._bytes = self._requests = 0

    @property
    def url(self) -> str:
        return self._inner.url

    def taken(self) -> tuple[int, int]:
        """Bytes read, and requests of any kind, since this was asked last."""
        with self._lock:
            found = self._bytes, self._requests
            self._bytes = self._requests = 0
            return found

    def put(self, name: str, buffers: Sequence[Buffer]) -> None:
        self._count(0)
        self._inner.put(name, buffers)

    def put_if_absent(self, name: str, buffers: Sequence[Buffer]) -> bool:
        self._count(0)
        return self._inner.put_if_absent(name, buffers)

    def get(self, name: str) -> Buffer:
        found = self._inner.get(name)
        self._count(len(found))
        return found

    def get_range(self, name: str, start: int, length: int) -> Buffer:
        self._count(length)
        return self._inner.get_range(name, start, length)

    def get_ranges(self, name: str, starts: Sequence[int], lengths: Sequence[int]) -> Sequence[Buffer]:
        self._count(sum(lengths))
        return self._inner.get_ranges(name, starts, lengths)

    def list(self, prefix: str, after: str = "") -> Iterator[Listed]:
        self._count(0)
        return self._inner.list(prefix, after)

    def folders(self, prefix: str) -> Sequence[str]:
        self._count(0)
        return self._inner.folders(prefix)

    def delete(self, name: str) -> None:
        self._count(0)
        self._inner.delete(name)

    def _count(self, size: int) -> None:
        with self._lock:
            self._bytes += size
            self._requests += 1
