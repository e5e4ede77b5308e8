"""Limit how much each machine may put into the spool: back-pressure before it is full, without harm to other machines.

Below half of the limit every machine may append. Above it, a machine that uses its equal share must wait, so the rest
remains for the others; an eighth belongs to nobody's share and remains for machines that use little or nothing yet. At
the limit every machine waits.
"""

from __future__ import annotations

from collections import Counter

from farshore.model.errors import Busy
from farshore.model.identifiers import MachineId

_WAIT_SECONDS = 1.0


class Allowance:
    """Counts bytes by machine. Not thread-safe: the log's lock guards it. ``limit`` is in bytes."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._held: Counter[MachineId] = Counter()

    @property
    def total(self) -> int:
        """Bytes of all frames that are queued, or durable and not released."""
        return self._held.total()

    def held_by(self, machine: MachineId) -> int:
        """Return the number of bytes of one machine's frames."""
        return self._held[machine]

    def take(self, machine: MachineId, length: int) -> None:
        """Count a frame in, or raise Busy."""
        total = self.total
        if total + length > self.limit:
            raise Busy(
                f"The spool is full: it holds {total >> 20} of {self.limit >> 20} MiB.",
                remedy="The agent retries automatically. If this lasts, check the vault's store.",
                after=_WAIT_SECONDS,
            )
        held = self._held.get(machine, 0)
        share = (self.limit - self.limit // 8) // max(1, len(self._held))
        if held and total + length > self.limit // 2 and held + length > share:
            raise Busy(
                f"The spool is more than half full and this machine holds its share of {share >> 20} MiB.",
                remedy="The agent retries automatically. If this lasts, check the vault's store.",
                after=_WAIT_SECONDS,
            )
        self._held[machine] += length

    def count(self, machine: MachineId, length: int) -> None:
        """Count a recovered frame in, even above the limit."""
        self._held[machine] += length

    def give_back(self, machine: MachineId, length: int) -> None:
        """Return the allowance of a frame."""
        self._held[machine] -= length
        if not self._held[machine]:
            del self._held[machine]
