"""Decide when to give a process server up: it has not reported while we were able to receive reports.

A configuration server that was stopped, paused or restarted has itself received nothing for a while. So the time since
the last report does not count, but how long and how often we have looked since then without finding a new one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from farshore.catalog.tables import ProcessServerRow
from farshore.model.ports import Clock

GIVEN_UP_SECONDS = 20.0
"""A process server reports every second. Giving it up too early costs a resync of what it had not stored yet."""
LEAST_LOOKS = 5


@dataclass
class _Heard:
    last_seen: int
    since: float
    looks: int = 0


class SilenceWatch:
    """Used by one thread, which looks every few seconds."""

    def __init__(self, clock: Clock, seconds: float = GIVEN_UP_SECONDS) -> None:
        self._clock = clock
        self._seconds = seconds
        self._heard: dict[str, _Heard] = {}

    def given_up(self, servers: Sequence[ProcessServerRow]) -> set[str]:
        """Look once; return the ids of servers that have been silent for too long. A server that never reported is not
        among them."""
        now = self._clock.monotonic()
        found: set[str] = set()
        for server in servers:
            heard = self._heard.get(server.id)
            if heard is None or heard.last_seen != server.last_seen:
                self._heard[server.id] = _Heard(server.last_seen, now)
                continue
            heard.looks += 1
            if server.registered and heard.looks >= LEAST_LOOKS and now - heard.since >= self._seconds:
                found.add(server.id)
        self._heard = {server.id: self._heard[server.id] for server in servers}
        return found
