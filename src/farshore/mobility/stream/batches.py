"""Encoded batches on their way to the process server, and the journal that numbers them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import List, Optional
from typing import Sequence as Several

import numpy as np

from farshore.formats.batch import Batch, Buffer, Role, decode, encode
from farshore.mobility.stream.records import Piece
from farshore.model.clock_steps import LEAST_STEP, wall_clock_offset
from farshore.model.identifiers import Epoch, MachineId, Sequence
from farshore.model.ports import Clock

_MAXIMUM_MICROSECONDS = (1 << 32) - 1


@dataclass(frozen=True)
class EncodedBatch:
    """A batch as it is sent. ``end`` is the sequence after its last record, ``time`` that record's time in ns since
    1970, ``captured`` the same in ns of the monotonic clock; 0: unknown."""

    first: Sequence
    end: Sequence
    time: int
    buffers: Several[Buffer]
    captured: int = 0

    @property
    def size(self) -> int:
        """Size in bytes."""
        return sum(len(buffer) for buffer in self.buffers)


class Journal:
    """Assigns sequences and wall-clock times to records. One for each epoch and role; used by one thread.

    A *time base* is a run of batches during which nobody set the machine's clock; times never decrease within one."""

    def __init__(self, machine: MachineId, epoch: Epoch, clock: Clock, role: Role = Role.JOURNAL) -> None:
        self._machine = machine
        self._epoch = epoch
        self.role = role
        self._clock = clock
        self._base = wall_clock_offset(clock)
        """The offset of the wall clock when the time base began, ns."""
        self.latest = 0
        """Time of the newest record, ns since 1970 UTC."""
        self.next_sequence = Sequence(1)

    def batch(self, piece: Piece) -> EncodedBatch:
        """Return the next batch. If the clock was set since the last one, the whole batch belongs to a new time
        base."""
        offset = wall_clock_offset(self._clock)
        if abs(offset - self._base) >= LEAST_STEP:
            self._base, self.latest = offset, 0
        times = np.maximum(piece.times + offset, self.latest)
        base = int(times[0])
        piece.records["time_us"] = np.minimum((times - base) // 1000, _MAXIMUM_MICROSECONDS)
        self.latest = int(times[-1])
        captured = self.latest - offset
        first = self.next_sequence
        batch = Batch(self._machine, self._epoch, self.role, first, base, piece.records, piece.payload, captured)
        self.next_sequence = batch.end_sequence
        return EncodedBatch(batch.first_sequence, batch.end_sequence, self.latest, encode(batch), captured)


def read_back(data: Buffer, machine: MachineId, epoch: Epoch, expected: Optional[Sequence]) -> Optional[EncodedBatch]:
    """Return a batch that was written to the .hrl file, or None if it is not the next one.

    Raises Malformed or Damaged for bytes that are not a whole batch."""
    batch = decode(data)
    if batch.machine != machine or batch.epoch != epoch or batch.role != Role.JOURNAL:
        return None
    if expected is not None and batch.first_sequence != expected:
        return None
    last = int(batch.records["time_us"][-1]) * 1000 if len(batch.records) else 0
    buffers: List[Buffer] = [data]
    return EncodedBatch(batch.first_sequence, batch.end_sequence, batch.base_time + last, buffers, batch.captured)
