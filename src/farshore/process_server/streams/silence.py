"""A stretch of a journal in which nothing was written: consecutive marks.

Each segment of a stretch holds all marks from its beginning on, so the newest segment replaces all before it: a reader
that opens a state after hours of silence reads one segment, and so does upkeep. Segments may overlap
(docs/formats/names.md); of those with the same begin the longest counts. A stretch ends after an hour, and when the
process server restarts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Sequence

import numpy as np

from farshore.formats.batch import Batch, Role
from farshore.formats.record import RecordKind, Records
from farshore.model.identifiers import Epoch, MachineId
from farshore.model.identifiers import Sequence as RecordSequence
from farshore.vault.objects.segments import SealedBatch

LONGEST = 3600 * 1_000_000
"""Microseconds."""


@dataclass(frozen=True)
class Silence:
    """``records``: the marks from sequence ``first`` on, with times from ``base_time`` (ns since 1970 UTC) on."""

    machine: MachineId
    epoch: Epoch
    first: int
    base_time: int
    records: Records

    @property
    def end(self) -> int:
        """The sequence after the last mark."""
        return self.first + len(self.records)

    def batch(self) -> Batch:
        """Return all marks as a batch, to be sealed."""
        first = RecordSequence(self.first)
        return Batch(self.machine, self.epoch, Role.JOURNAL, first, self.base_time, self.records, b"")


def extended(before: Silence | None, batches: Sequence[SealedBatch]) -> Silence | None:
    """Return the stretch that these neighbouring batches, of one time base, belong to, or None if they contain more
    than marks. ``before``: the stretch that was stored last."""
    header = batches[0].header
    if header.role is not Role.JOURNAL or any((one.records["kind"] != RecordKind.MARK).any() for one in batches):
        return None
    times = np.concatenate([one.header.base_time // 1000 + one.records["time_us"].astype(np.int64) for one in batches])
    records = np.concatenate([one.records for one in batches])
    begin = before if before is not None and before.end == header.first_sequence else None
    if begin is not None:
        latest = begin.base_time // 1000 + int(begin.records["time_us"].max())
        if not latest <= times[0] or int(times[-1]) - begin.base_time // 1000 > LONGEST:
            begin = None  # the clock was set back, or the stretch becomes too long
    base = header.base_time if begin is None else begin.base_time
    records["time_us"] = np.maximum(times - base // 1000, 0)
    if begin is None:
        return Silence(header.machine, header.epoch, int(header.first_sequence), base, records)
    return Silence(begin.machine, begin.epoch, begin.first, base, np.concatenate([begin.records, records]))
