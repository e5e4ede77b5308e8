"""Growing pauses between attempts, with jitter: what failed together must not come back together."""

from __future__ import annotations

import random


class Backoff:
    """The pauses of one thread's attempts, in seconds."""

    def __init__(self, first: float, longest: float) -> None:
        self._first = self._next = first
        self._longest = longest

    def pause(self, least: float = 0.0) -> float:
        """Return the seconds until the next attempt, at least ``least``. The pause after it is twice as long, up to
        the longest."""
        seconds = max(least, self._next * random.uniform(0.5, 1.0))
        self._next = min(self._longest, self._next * 2)
        return seconds

    def reset(self) -> None:
        """Begin with short pauses again, after a success."""
        self._next = self._first
