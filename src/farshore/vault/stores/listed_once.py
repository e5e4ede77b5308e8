"""A store that lists a folder once and answers all listings below it from that: for a look at one machine, which asks
for the same names several times over.

What is put and deleted through it counts; what others do meanwhile is not seen, as in a single listing that takes that
long. Memory: the names of the folder.
"""

from __future__ import annotations

import time
from bisect import bisect_right
from collections.abc import Iterator, Sequence

from farshore.formats.batch import Buffer
from farshore.vault.stores.port import Listed, Store
from farshore.vault.stores.wrapper import StoreWrapper


class ListedOnce(StoreWrapper):
    """A Store (see vault.stores.port), for one thread's look; reading is safe from several."""

    def __init__(self, inner: Store, folder: str) -> None:
        """``folder`` ends in /."""
        super().__init__(inner)
        self._folder = folder
        self._listed: dict[str, Listed] | None = None
        self._names: list[str] = []

    def forget(self) -> None:
        """List the folder anew when it is asked for next."""
        self._listed = None

    def put(self, name: str, buffers: Sequence[Buffer]) -> None:
        self._inner.put(name, buffers)
        self._is_there(name, buffers)

    def put_if_absent(self, name: str, buffers: Sequence[Buffer]) -> bool:
        made = self._inner.put_if_absent(name, buffers)
        if made:
            self._is_there(name, buffers)
        elif name.startswith(self._folder):
            self.forget()  # another has put it, of a size and at a time that are not known here
        return made

    def list(self, prefix: str, after: str = "") -> Iterator[Listed]:
        if not prefix.startswith(self._folder):
            yield from self._inner.list(prefix, after)
            return
        if self._listed is None:
            self._listed = {item.name: item for item in self._inner.list(self._folder)}
            self._names = sorted(self._listed)
        listed, names = self._listed, self._names
        # As the port wants it: greater than ``after``, and all names below a prefix are neighbours.
        first = max(bisect_right(names, prefix), bisect_right(names, after))
        for place in range(first, len(names)):
            if not names[place].startswith(prefix):
                return
            yield listed[names[place]]

    def delete(self, name: str) -> None:
        self._inner.delete(name)
        if name.startswith(self._folder):
            self.forget()

    def _is_there(self, name: str, buffers: Sequence[Buffer]) -> None:
        if self._listed is None or not name.startswith(self._folder):
            return
        size = sum(memoryview(one).nbytes for one in buffers)
        # New ones: whoever goes through a listing goes on with what was there when it began.
        self._listed = {**self._listed, name: Listed(name, size, time.time_ns())}
        self._names = sorted(self._listed)
