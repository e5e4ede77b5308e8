"""Memory for large requests, limited for each connection and for all of them.

A request without such memory is still served, piece by piece through a buffer that its connection has anyway: slower,
but nobody waits for memory that a client holds by not reading its replies.
"""

from __future__ import annotations

import threading

PIECE = 1 << 20
"""Large reads travel in pieces of this size."""
_TOTAL = 256 << 20
_OF_ONE = 64 << 20
"""Two of the largest requests."""
_KEPT_PIECES = 32


class Memory:
    """The memory of all connections together, in bytes; ``head`` are the bytes before a piece's data."""

    def __init__(self, total: int = _TOTAL, of_one: int = _OF_ONE, head: int = 64) -> None:
        self.free = total
        self._of_one = of_one
        self._head = head
        self._lock = threading.Lock()
        self._kept: list[memoryview] = []
        """Unused pieces: clearing a new MiB for each request costs as much as copying it does."""

    def share(self) -> Share:
        """Return the share of one connection."""
        return Share(self, self._of_one)

    def take(self, size: int) -> bool:
        """Take ``size`` bytes; return whether they were free."""
        with self._lock:
            if size > self.free:
                return False
            self.free -= size
            return True

    def give(self, size: int) -> None:
        """Give bytes back."""
        with self._lock:
            self.free += size

    def piece(self) -> memoryview:
        """Return a buffer of ``head`` and ``PIECE`` bytes, with any content."""
        with self._lock:
            if self._kept:
                return self._kept.pop()
        return memoryview(bytearray(self._head + PIECE))

    def keep(self, piece: memoryview) -> None:
        """Take a buffer back for reuse."""
        with self._lock:
            if len(self._kept) < _KEPT_PIECES:
                self._kept.append(piece)


class Share:
    """The memory of one connection. Its threads may call all methods at once."""

    def __init__(self, memory: Memory, most: int) -> None:
        self._memory = memory
        self._lock = threading.Lock()
        self._most = most
        self._held = 0

    def take(self, size: int) -> bool:
        """Take ``size`` bytes more; return whether that is allowed. Give them back later."""
        with self._lock:
            if self._held + size > self._most or not self._memory.take(size):
                return False
            self._held += size
            return True

    def give(self, size: int) -> None:
        """Give bytes back."""
        with self._lock:
            self._held -= size
        self._memory.give(size)

    def close(self) -> None:
        """Give back everything: the connection has ended."""
        self.give(self._held)

    def borrow(self) -> memoryview | None:
        """Return a piece, or None if there is no memory for it; give it to ``put_back``."""
        return self._memory.piece() if self.take(PIECE) else None

    def put_back(self, piece: memoryview) -> None:
        """Give a piece back."""
        self._memory.keep(piece)
        self.give(PIECE)
