"""A place in a machine's ordered stream of writes."""

from __future__ import annotations

from dataclasses import dataclass

from farshore.model.errors import Malformed
from farshore.model.identifiers import Epoch, Sequence


@dataclass(frozen=True, order=True)
class Position:
    """The state after all records up to and including ``sequence`` of ``epoch``; 0 is the bare base."""

    epoch: Epoch
    sequence: Sequence

    def __str__(self) -> str:
        return f"{self.epoch}:{self.sequence}"

    @classmethod
    def parse(cls, text: str) -> Position:
        """Read ``EPOCH:SEQUENCE``. Raises Malformed."""
        epoch, colon, sequence = text.partition(":")
        if not (colon and epoch.isdecimal() and sequence.isdecimal()):
            raise Malformed(f"{text!r} is not a position.", remedy="Write it as EPOCH:SEQUENCE, for example 1:4096.")
        return cls(Epoch(int(epoch)), Sequence(int(sequence)))
