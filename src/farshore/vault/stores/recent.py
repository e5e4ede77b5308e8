"""A store that remembers the ends of journal objects that were read lately: a wrapper for who follows a journal.

A segment is opened by its end, where its index is, and its packs are read next; a small one lies in that end as a
whole. Without this, following a quiet machine reads each of its segments three times. Segments and layers never
change, so what is remembered stays true.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence

from farshore.formats.batch import Buffer
from farshore.vault.stores.port import Store
from farshore.vault.stores.wrapper import StoreWrapper

_KEEP = 64 << 20
"""Bytes remembered."""
_LONGEST = 256 << 10
"""Bytes of a read that is remembered: an index and what is read along with it."""


class RecentStore(StoreWrapper):
    """A Store (see vault.stores.port) over ``inner``. Safe to use from several threads."""

    def __init__(self, inner: Store) -> None:
        super().__init__(inner)
        self._lock = threading.Lock()
        self._ends: OrderedDict[str, tuple[int, memoryview]] = OrderedDict()
        self._size = 0

    def get_range(self, name: str, start: int, length: int) -> Buffer:
        known = self._known(name, start, length)
        if known is not None:
            return known
        found = self._inner.get_range(name, start, length)
        if len(found) <= _LONGEST and ("/segments/" in name or "/layers/" in name):
            self._remember(name, start, found)
        return found

    def get_ranges(self, name: str, starts: Sequence[int], lengths: Sequence[int]) -> Sequence[Buffer]:
        found = [self._known(name, start, length) for start, length in zip(starts, lengths, strict=True)]
        lacking = [place for place, one in enumerate(found) if one is None]
        if not lacking:
            return [one for one in found if one is not None]
        fetched = iter(
            self._inner.get_ranges(name, [starts[place] for place in lacking], [lengths[place] for place in lacking])
        )
        return [next(fetched) if one is None else one for one in found]

    def _known(self, name: str, start: int, length: int) -> memoryview | None:
        with self._lock:
            if name not in self._ends:
                return None
            self._ends.move_to_end(name)
            begin, data = self._ends[name]
        within = start - begin
        return data[within : within + length] if within >= 0 and within + length <= len(data) else None

    def _remember(self, name: str, start: int, found: Buffer) -> None:
        with self._lock:
            before = self._ends.pop(name, None)
            self._size += len(found) - (0 if before is None else len(before[1]))
            self._ends[name] = start, memoryview(found)
            while self._size > _KEEP:
                _, (_, dropped) = self._ends.popitem(last=False)
                self._size -= len(dropped)
