"""A store that counts what is asked of it, by the kinds that providers bill: a wrapper, next to the store itself.

In memory, from the start of the process on. What a provider repeats by itself after a passing error is not seen here.
"""

from __future__ import annotations

import enum
import threading
import time
from collections.abc import Iterator, Sequence

from farshore.formats.batch import Buffer
from farshore.vault.stores.port import Listed, Store, Sweepable
from farshore.vault.stores.remote import COALESCE

PAGE = 1000
"""Names that one request of a listing answers at most."""


class RequestKind(enum.Enum):
    """As providers tell requests apart."""

    PUT = "put"
    GET = "get"
    LIST = "list"
    DELETE = "delete"


class CountedStore:
    """A Store (see vault.stores.port). Safe to use from several threads."""

    def __init__(self, inner: Store) -> None:
        self._inner = inner
        self._lock = threading.Lock()
        self._counts = dict.fromkeys(RequestKind, 0)
        self._read = 0
        self._taken = 0, 0
        self._began = time.monotonic()

    @property
    def url(self) -> str:
        return self._inner.url

    @property
    def requests(self) -> dict[str, int]:
        """Number of requests by kind, since the store was opened."""
        with self._lock:
            return {kind.value: number for kind, number in self._counts.items()}

    @property
    def seconds(self) -> float:
        """For how long they have been counted."""
        return time.monotonic() - self._began

    def taken(self) -> tuple[int, int]:
        """Return the number of bytes read, and requests of any kind, since this was asked last."""
        with self._lock:
            before, self._taken = self._taken, (self._read, sum(self._counts.values()))
            return self._taken[0] - before[0], self._taken[1] - before[1]

    def put(self, name: str, buffers: Sequence[Buffer]) -> None:
        self._count(RequestKind.PUT)
        self._inner.put(name, buffers)

    def put_if_absent(self, name: str, buffers: Sequence[Buffer]) -> bool:
        self._count(RequestKind.PUT)
        return self._inner.put_if_absent(name, buffers)

    def get(self, name: str) -> Buffer:
        self._count(RequestKind.GET)
        found = self._inner.get(name)
        self._count(RequestKind.GET, 0, len(found))
        return found

    def get_range(self, name: str, start: int, length: int) -> Buffer:
        self._count(RequestKind.GET, read=length)
        return self._inner.get_range(name, start, length)

    def get_ranges(self, name: str, starts: Sequence[int], lengths: Sequence[int]) -> Sequence[Buffer]:
        self._count(RequestKind.GET, _apart(starts, lengths), sum(lengths))
        return self._inner.get_ranges(name, starts, lengths)

    def list(self, prefix: str, after: str = "") -> Iterator[Listed]:
        self._count(RequestKind.LIST)
        for number, item in enumerate(self._inner.list(prefix, after), 1):
            if number > PAGE and number % PAGE == 1:
                self._count(RequestKind.LIST)
            yield item

    def folders(self, prefix: str) -> Sequence[str]:
        found = self._inner.folders(prefix)
        self._count(RequestKind.LIST, max(1, -(-len(found) // PAGE)))
        return found

    def delete(self, name: str) -> None:
        self._count(RequestKind.DELETE)
        self._inner.delete(name)

    def _count(self, kind: RequestKind, number: int = 1, read: int = 0) -> None:
        with self._lock:
            self._counts[kind] += number
            self._read += read


class SweepableCountedStore(CountedStore):
    """The same over a store that is Sweepable."""

    def sweep(self, older_than: float) -> int:
        assert isinstance(self._inner, Sweepable)
        return self._inner.sweep(older_than)


def counted(inner: Store) -> CountedStore:
    """Return a wrapper that can what ``inner`` can."""
    return SweepableCountedStore(inner) if isinstance(inner, Sweepable) else CountedStore(inner)


def _apart(starts: Sequence[int], lengths: Sequence[int]) -> int:
    """How many requests these ranges take: close ones are fetched together."""
    number, reach = 0, -COALESCE - 1
    for start, length in sorted(zip(starts, lengths, strict=True)):
        number += start - reach > COALESCE
        reach = max(reach, start + length)
    return number
