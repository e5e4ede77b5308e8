"""When a batch is cut: pure. The pump asks it for each look at the ring, a simulated machine of a benchmark as well."""

from __future__ import annotations

from dataclasses import dataclass

from farshore.model.cadence import DEFAULT_RPO, LONGEST_CUT, cadence


@dataclass
class Asked:
    """What the policy asks for; changes while the pump runs."""

    rpo: float = DEFAULT_RPO
    """Seconds."""


class Cutting:
    """Records wait for others as long as the policy allows, but not where the ring fills up. On a slow machine, where
    a request takes longer than that, batches grow by themselves until LONGEST_CUT."""

    def __init__(self, asked: Asked, enough: int, now: float) -> None:
        """``enough``: bytes in the ring that are cut at once. Times are of the monotonic clock, in seconds."""
        self._asked, self._enough = asked, enough
        self._last = now

    def cut(self, now: float) -> None:
        """Note that a batch was cut. Not to be called for a mark, so that a write after a mark need not wait for
        others."""
        self._last = now

    def due_in(self, now: float, waiting: int, *, acknowledged: bool) -> float:
        """Return the seconds until the records in the ring, ``waiting`` bytes, are to be cut. ``acknowledged``: no
        batch waits."""
        if waiting >= self._enough:
            return 0.0
        longest = cadence(self._asked.rpo).cut if acknowledged else LONGEST_CUT
        return max(0.0, self._last + longest - now)
