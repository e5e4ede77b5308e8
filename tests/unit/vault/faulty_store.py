"""A store that stops at a chosen operation, as a process does that is killed there."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence

from farshore.formats.batch import Buffer
from farshore.model.errors import Unreachable
from farshore.vault.stores.port import Listed, Store


class Killed(BaseException):
    """The process is gone: nothing may catch it."""


class KillableStore:
    """Passes everything on; before the write number ``at`` (puts and deletes, counted from 0) it raises Killed."""

    def __init__(self, inner: Store, at: int | None = None) -> None:
        self._inner, self.at, self.writes = inner, at, 0
        self.refusal: Exception | None = None
        """What every write raises, where it is set."""

    @property
    def url(self) -> str:
        return self._inner.url

    def put(self, name: str, buffers: Sequence[Buffer]) -> None:
        self._count()
        self._inner.put(name, buffers)

    def put_if_absent(self, name: str, buffers: Sequence[Buffer]) -> bool:
        self._count()
        return self._inner.put_if_absent(name, buffers)

    def get(self, name: str) -> Buffer:
        return self._inner.get(name)

    def get_range(self, name: str, start: int, length: int) -> Buffer:
        return self._inner.get_range(name, start, length)

    def get_ranges(self, name: str, starts: Sequence[int], lengths: Sequence[int]) -> Sequence[Buffer]:
        return self._inner.get_ranges(name, starts, lengths)

    def list(self, prefix: str, after: str = "") -> Iterator[Listed]:
        return self._inner.list(prefix, after)

    def folders(self, prefix: str) -> Sequence[str]:
        return self._inner.folders(prefix)

    def delete(self, name: str) -> None:
        self._count()
        self._inner.delete(name)

    def _count(self) -> None:
        if self.refusal is not None:
            raise self.refusal
        if self.at is not None and self.writes >= self.at:
            if threading.current_thread().name == "vault-lease":
                # A killed process has no threads; here the renewing one outlives it, and must do nothing.
                raise Unreachable("The process that held this lease is gone.", remedy="None: this is a test.")
            raise Killed
        self.writes += 1
