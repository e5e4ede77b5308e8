"""Decide when a batch is cut. Pure. The pump calls it at each look at the ring, and so does a benchmark's simulated
machine."""

from __future__ import annotations

from dataclasses import dataclass

from farshore.model.cadence import DEFAULT_RPO, LONGEST_CUT, cadence


@dataclass
class Asked:
    """The policy's request; it changes while the pump runs."""

    rpo: float = DEFAULT_RPO
    """Seconds."""


class Cutting:
    """Records wait for others as long as the policy allows, unless the ring fills up. On a slow machine, where a
    request takes longer than that, batches grow until LONGEST_CUT."""

    def __init__(self, asked: Asked, enough: int, now: float) -> None:
        """``enough``: bytes in the ring that are cut at once. Times are of the monotonic clock, in seconds."""
        self._asked, self._enough = asked, enough
        self._last = now

    def cut(self, now: float) -> None:
        """Record that a batch was cut. Not to be called for a mark, so that a write after a mark need not wait for
        others."""
        self._last = now

    def due_in(self, now: float, waiting: int, *, acknowledged: bool) -> float:
        """Return the seconds until the records in the ring, ``waiting`` bytes, must be cut. ``acknowledged``: no batch
        waits."""
        if waiting >= self._enough:
            return 0.0
        longest = cadence(self._asked.rpo).cut if acknowledged else LONGEST_CUT
        return max(0.0, self._last + longest - now)
