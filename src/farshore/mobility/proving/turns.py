"""Give urgent chunks turns: one that cannot be settled must not prevent the proof of all others.

A chunk may be written without a pause, or the disk may no longer be able to read it. It is retried after a growing
pause, and other chunks that are due come in between.
"""

from __future__ import annotations

from typing import Dict, List, Sequence, Tuple

from farshore.model.identifiers import DiskNumber
from farshore.model.ports import Clock

FIRST_PAUSE = 1.0
LONGEST_PAUSE = 60.0
"""Seconds."""
MOST = 2048
"""Chunks in one turn: 128 MiB."""
Chunk = Tuple[DiskNumber, int]


class ProofTurns:
    """Used by one thread."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._tried: Dict[Chunk, Tuple[float, float]] = {}
        """For chunks that could not be proven: the pause after the last try, and its end, seconds of the monotonic
        clock."""
        self._others = False
        """Something was retried since others had their turn."""

    def take(self, wanted: Sequence[Chunk], *, others: bool) -> List[Chunk]:
        """Return which of ``wanted`` to try now. Empty: none, or it is the turn of ``others``, which are due."""
        known = set(wanted)
        self._tried = {one: tried for one, tried in self._tried.items() if one in known}
        fresh = [one for one in wanted if one not in self._tried]
        if fresh:
            return fresh[:MOST]
        if others and self._others:
            self._others = False
            return []
        now = self._clock.monotonic()
        again = sorted((until, one) for one, (_, until) in self._tried.items() if until <= now)
        self._others = self._others or bool(again)
        return [one for _, one in again[:MOST]]

    def end(self, taken: Sequence[Chunk], left: Sequence[Chunk]) -> None:
        """End a turn of these chunks; those in ``left`` could not be proven."""
        now, left_over = self._clock.monotonic(), set(left)
        for one in taken:
            before = self._tried.pop(one, None)
            if one in left_over:
                pause = FIRST_PAUSE if before is None else min(LONGEST_PAUSE, 2 * before[0])
                self._tried[one] = pause, now + pause
