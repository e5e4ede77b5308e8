"""A store whose problems are known and temporary: a wrapper, put around the store itself in ``main``.

A store that refuses (because of its credentials, or a read-only folder) works again once somebody has fixed it, and
callers that wait for it are not at fault. So a refusal becomes TryLater here. Otherwise an agent would take it for its
own error, give up its epoch, and a heal would become a resync of everything.

Place it below wrappers that delay requests (see throttled_store): only the store's own time counts as its slowness.
"""

from __future__ import annotations

import contextlib
import enum
import threading
from typing import Iterator, Sequence

from farshore.formats.batch import Buffer
from farshore.model.errors import Damaged, FarshoreError, NotFound, Refused, TryLater
from farshore.model.ports import Clock
from farshore.vault.stores.port import Listed, Store

REFUSED_SECONDS = 5.0
"""Before the next try if the store refuses: wrong credentials are not fixed within a second."""
SLOW_SECONDS = 20.0
"""If a store takes longer than this for one object, that is a problem, although it has refused nothing."""
_FORGOTTEN_SECONDS = 90.0
"""A problem that no request has met for this long has ended: callers that wait for the store retry well before."""


class _Way(enum.Enum):
    """Reading or writing: a store may be readable and refuse writes, so success of one says nothing about the other."""

    READING = "reading"
    WRITING = "writing"


class WatchedStore:
    """A Store (see vault.stores.port)."""

    def __init__(self, inner: Store, clock: Clock) -> None:
        self._inner, self._clock = inner, clock
        self._lock = threading.Lock()
        self._met: dict[_Way, tuple[float, str]] = {}
        self._under_way: dict[object, float] = {}

    @property
    def url(self) -> str:
        return self._inner.url

    @property
    def trouble(self) -> str:
        """The store's last error, with what to do; "" while it works."""
        now = self._clock.monotonic()
        with self._lock:
            told = [text for at, text in self._met.values() if now - at < _FORGOTTEN_SECONDS]
            waiting = now - min(self._under_way.values(), default=now)
        if told:
            return told[-1]
        if waiting > SLOW_SECONDS:
            return f"The store is slow: a request has been in progress for {waiting:.0f} s. Check the network to it."
        return ""

    def put(self, name: str, buffers: Sequence[Buffer]) -> None:
        with self._asking(_Way.WRITING):
            self._inner.put(name, buffers)

    def put_if_absent(self, name: str, buffers: Sequence[Buffer]) -> bool:
        with self._asking(_Way.WRITING):
            return self._inner.put_if_absent(name, buffers)

    def get(self, name: str) -> Buffer:
        with self._asking(_Way.READING):
            return self._inner.get(name)

    def get_range(self, name: str, start: int, length: int) -> Buffer:
        with self._asking(_Way.READING):
            return self._inner.get_range(name, start, length)

    def get_ranges(self, name: str, starts: Sequence[int], lengths: Sequence[int]) -> Sequence[Buffer]:
        with self._asking(_Way.READING):
            return self._inner.get_ranges(name, starts, lengths)

    def list(self, prefix: str, after: str = "") -> Iterator[Listed]:
        # The reader of the items decides how long this lasts, so it is not measured.
        with self._watching(_Way.READING):
            yield from self._inner.list(prefix, after)

    def folders(self, prefix: str) -> Sequence[str]:
        with self._asking(_Way.READING):
            return self._inner.folders(prefix)

    def delete(self, name: str) -> None:
        with self._asking(_Way.WRITING):
            self._inner.delete(name)

    @contextlib.contextmanager
    def _asking(self, way: _Way) -> Iterator[None]:
        request = object()
        with self._lock:
            self._under_way[request] = self._clock.monotonic()
        try:
            with self._watching(way):
                yield
        finally:
            with self._lock:
                del self._under_way[request]

    @contextlib.contextmanager
    def _watching(self, way: _Way) -> Iterator[None]:
        try:
            yield
        except (NotFound, Damaged):
            self._works(way)  # it answered
            raise
        except FarshoreError as error:
            with self._lock:
                self._met.pop(way, None)  # the newest is last
                self._met[way] = self._clock.monotonic(), str(error)
            if isinstance(error, Refused):
                raise TryLater(error.message, remedy=error.remedy, after=REFUSED_SECONDS) from error
            raise
        self._works(way)

    def _works(self, way: _Way) -> None:
        with self._lock:
            self._met.pop(way, None)
