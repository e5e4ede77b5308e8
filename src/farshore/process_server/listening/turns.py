"""Decide which requests are processed now and which wait: a machine on a slow line must not occupy every worker.

While enough workers are free a peer gets as many as it asks for. Beyond that each peer has a small share, and further
requests wait without a worker.
"""

from __future__ import annotations

import threading
from collections import deque

from farshore.process_server.listening.connection import Connection
from farshore.process_server.listening.peer import Peer

SHARE = 2
"""One request that is received while another waits for the disk."""


class Turns:
    """Safe to use from several threads."""

    def __init__(self, workers: int) -> None:
        self._plenty = workers // 2
        self._active = 0
        self._of: dict[Peer | None, int] = {}
        self._waiting: deque[Connection] = deque()
        self._lock = threading.Lock()

    def enter(self, connection: Connection) -> bool:
        """Return whether its request may be processed now. If not, a later `leave` returns the connection: do not use
        it before."""
        with self._lock:
            if not self._may(connection.peer):
                self._waiting.append(connection)
                return False
            self._begin(connection.peer)
            return True

    def leave(self, peer: Peer | None) -> Connection | None:
        """Record that a request was answered. Return the next connection whose turn it is; it has entered."""
        with self._lock:
            self._active -= 1
            left = self._of.pop(peer) - 1
            if left:
                self._of[peer] = left
            # One has left, so at most one more may enter.
            found = next((one for one in self._waiting if self._may(one.peer)), None)
            if found is not None:
                self._waiting.remove(found)
                self._begin(found.peer)
            return found

    def _may(self, peer: Peer | None) -> bool:
        return self._active < self._plenty or self._of.get(peer, 0) < SHARE

    def _begin(self, peer: Peer | None) -> None:
        self._active += 1
        self._of[peer] = self._of.get(peer, 0) + 1
