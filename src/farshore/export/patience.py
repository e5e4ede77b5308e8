"""A source that waits out temporary errors of a store: a machine that runs on it would take an error for a broken
disk."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from farshore.backoff import Backoff
from farshore.export.device import Residency
from farshore.formats.batch import Buffer
from farshore.model.errors import TryLater
from farshore.model.ports import BlockSource, Extent, WholeChunks

log = logging.getLogger(__name__)

Result = TypeVar("Result")

_FIRST_WAIT = 0.25
_LONGEST_WAIT = 5.0


class PatientSource:
    """``source``, whose TryLater is retried with growing, jittered waits for ``seconds`` before it is passed on."""

    def __init__(
        self,
        source: BlockSource,
        seconds: float = 120.0,
        *,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._source = source
        self._residency = source if isinstance(source, Residency) else None
        self._chunks = source if isinstance(source, WholeChunks) else None
        self._seconds = seconds
        self._sleep = sleep
        self._clock = clock

    @property
    def size(self) -> int:
        return self._source.size

    def resident(self, offset: int, length: int) -> bool:
        """Return whether the source says that a read needs no waiting; False if it cannot tell."""
        return self._residency is not None and self._residency.resident(offset, length)

    def read_into(self, offset: int, buffer: memoryview) -> None:
        self._patiently(lambda: self._source.read_into(offset, buffer))

    def whole_chunk(self, number: int) -> Buffer | None:
        """Return the source's chunk, if it serves whole chunks."""
        chunks = self._chunks
        return None if chunks is None else self._patiently(lambda: chunks.whole_chunk(number))

    def extents(self, offset: int, length: int) -> Iterator[Extent]:
        return iter(self._patiently(lambda: list(self._source.extents(offset, length))))

    def close(self) -> None:
        self._source.close()

    def _patiently(self, act: Callable[[], Result]) -> Result:
        end = self._clock() + self._seconds
        backoff = Backoff(_FIRST_WAIT, _LONGEST_WAIT)
        while True:
            try:
                return act()
            except TryLater as error:
                left = end - self._clock()
                if left <= 0:
                    raise
                log.warning("A read from the vault is being repeated: %s", error)
                self._sleep(min(left, backoff.pause(error.after or 0.0)))
