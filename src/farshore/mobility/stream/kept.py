"""Keep batches that a process server has acknowledged and that are not in the vault yet, as far as memory allows.

An acknowledged batch is durable in the spool of one process server. If that server is lost with its disk, its
replacement reports, by the record that it expects, how far the vault got; from there the stream can be repeated to it,
and the epoch continues as before. If more was lost than is kept, the machine resyncs.
"""

from __future__ import annotations

from collections import deque
from typing import Deque, List, Optional

from farshore.mobility.stream.batches import EncodedBatch

KEPT_BYTES = 24 << 20
"""More than a second of a busy machine's writes; the vault is about a second behind."""


class Kept:
    """A run of batches without gaps, the newest that were acknowledged. Used by one thread."""

    def __init__(self, most_bytes: int = KEPT_BYTES) -> None:
        self._most = most_bytes
        self._batches: Deque[EncodedBatch] = deque()
        self._bytes = 0

    def add(self, batch: EncodedBatch) -> None:
        """Add the next acknowledged batch."""
        if self._batches and self._batches[-1].end != batch.first:
            self._batches.clear()
            self._bytes = 0
        self._batches.append(batch)
        self._bytes += batch.size
        while self._bytes > self._most:
            self._drop()

    def stored(self, expected: int) -> None:
        """Drop everything below this sequence: it is in the vault."""
        while self._batches and self._batches[0].end <= expected:
            self._drop()

    def since(self, expected: int, end: int) -> Optional[List[EncodedBatch]]:
        """Return the batches from sequence ``expected`` up to ``end``, in order; None if some are not here."""
        found = [batch for batch in self._batches if batch.first >= expected]
        if not found or found[0].first != expected or found[-1].end != end:
            return None
        return found

    def _drop(self) -> None:
        self._bytes -= self._batches.popleft().size
