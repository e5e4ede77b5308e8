"""Building segments: batches are sealed as they come, spooled, and later joined into segments as they are.

The process server seals each batch at once (`SegmentBuilder.seal`), keeps the sealed form in its spool, adds it
(`add`) and, when it is time, builds the segment (`build`), which only encrypts an index. After a crash the spooled
batches make builders again (`SegmentBuilder.from_sealed`); such a builder adds and builds, but
seals nothing, because it cannot know which ordinals the crashed process had used.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Sequence as Several

import numpy as np

from farshore.formats.batch import Batch, Buffer, Role
from farshore.formats.container import PACK_LIMIT, Header, Kind, PackRows
from farshore.formats.record import RECORD, Records, payload_offsets
from farshore.formats.segment import SealedHeader, SegmentIndex, decode_sealed, encode_index
from farshore.formats.vault_names import SEGMENT_RECORDS, SegmentName
from farshore.model.errors import Damaged, Refused, WrongKey
from farshore.model.identifiers import Epoch, MachineId, Sequence
from farshore.vault.objects.opening import SealedObject
from farshore.vault.objects.sealing import PackOpener, Sealer, SealingKey, concatenated, seal_index

_LONGEST = (1 << 32) - 1
_OUT_OF_ORDER = "Batches of a segment must follow each other."


@dataclass(frozen=True)
class SealedBatch:
    """A batch whose payload and records are encrypted. ``records`` and ``header`` are in the clear in memory only."""

    header: SealedHeader
    records: Records
    rows: PackRows
    sealed_records: Buffer
    packs: tuple[Buffer, ...]

    @property
    def first_sequence(self) -> Sequence:
        """The sequence of the first record."""
        return self.header.first_sequence

    @property
    def end_sequence(self) -> Sequence:
        """The sequence after the last record."""
        return Sequence(self.header.first_sequence + self.header.records)

    @property
    def size(self) -> int:
        """Bytes of the sealed packs."""
        return int(self.rows["stored"].sum(dtype=np.int64))

    def to_buffers(self) -> list[Buffer]:
        """Return the self-contained form that may lie on a disk: nothing in it is readable without the machine's
        key."""
        return [self.header.encode(), self.rows.tobytes(), self.sealed_records, *self.packs]

    def payload(self, key: SealingKey) -> bytes:
        """Return the bytes of all records, opened. Raises Damaged."""
        opener = PackOpener(key, self.header.salt, f"a sealed batch of {self.header.machine}")
        parts = zip(self.packs, self.rows, strict=True)
        return b"".join(opener.open(pack, int(row["ordinal"]), int(row["raw"])) for pack, row in parts)

    @classmethod
    def from_buffer(cls, data: Buffer, key: SealingKey) -> SealedBatch:
        """Read what to_buffers gave. Raises Damaged, WrongKey, Unsupported. Packs are views of ``data``."""
        header, rows, sealed, packs = decode_sealed(data)
        if header.key_id != key.id:
            raise WrongKey(
                "A sealed batch was sealed with another key.", remedy="Use the key of the machine that it names."
            )
        opener = PackOpener(key, header.salt, f"a sealed batch of {header.machine}")
        context = header.encode() + rows.tobytes()
        plain = opener.open(sealed, header.records_ordinal, header.records_raw, context)
        records = np.frombuffer(plain, RECORD)
        if len(records) != header.records or payload_offsets(records)[-1] != rows["raw"].sum(dtype=np.int64):
            raise Damaged(
                "A sealed batch is inconsistent.",
                remedy="Nothing is lost if it was never acknowledged: the sender still has it.",
            )
        ends = np.cumsum(rows["stored"], dtype=np.int64)
        starts = ends - rows["stored"]
        pieces = tuple(packs[int(start) : int(end)] for start, end in zip(starts, ends, strict=True))
        return cls(header, records, rows, sealed, pieces)


class SegmentBuilder:
    """Makes one segment. ``seal`` may be called from several threads; ``add`` and ``build`` from one at a time."""

    def __init__(
        self, key: SealingKey, machine: MachineId, epoch: Epoch, role: Role, header: Header | None = None
    ) -> None:
        """``header``: of batches that were sealed before; then it seals no more."""
        self._machine, self._epoch, self._role = machine, epoch, role
        self._key = key
        self._sealer: Sealer | None = None
        if header is None:
            self._sealer = Sealer(key, Kind.SEGMENT)
            header = self._sealer.header
        self._header = header
        self._batches: deque[SealedBatch] = deque()
        self._size = 0

    @classmethod
    def from_sealed(cls, key: SealingKey, batches: Several[SealedBatch]) -> SegmentBuilder:
        """Return a builder over batches from the spool: one salt, one epoch and role, neighbours. It cannot seal
        more."""
        first = batches[0].header
        builder = cls(key, first.machine, first.epoch, first.role, Header(Kind.SEGMENT, first.salt, first.key_id))
        for batch in batches:
            builder.add(batch)
        return builder

    @property
    def size(self) -> int:
        """Bytes of packs added so far."""
        return self._size

    @property
    def salt(self) -> bytes:
        """What tells the batches of this builder from those of others."""
        return self._header.salt

    @property
    def empty(self) -> bool:
        """Whether nothing was added yet."""
        return not self._batches

    def seal(self, batch: Batch) -> SealedBatch:
        """Compress and encrypt a batch; it must be added later or dropped. Raises Refused on a recovered builder."""
        if self._sealer is None:
            raise Refused(
                "A segment that was recovered from the spool cannot take new batches.", remedy="Begin another segment."
            )
        if (batch.machine, batch.epoch, batch.role) != (self._machine, self._epoch, self._role):
            raise Refused("The batch belongs to another stream.", remedy="Add it to a segment of its stream.")
        rows, packs = self._sealer.packs(batch.payload, PACK_LIMIT)
        table = np.ascontiguousarray(batch.records).tobytes()
        ordinal = self._sealer.reserve(1)
        # Sealing binds the header, which holds the sealed length: the compressed form must be known before.
        squeezed, length = self._sealer.prepare(table)
        header = SealedHeader(
            machine=batch.machine,
            epoch=batch.epoch,
            role=batch.role,
            salt=self._header.salt,
            key_id=self._header.key_id,
            first_sequence=batch.first_sequence,
            base_time=batch.base_time,
            records=len(batch.records),
            packs=len(rows),
            records_ordinal=ordinal,
            records_stored=length,
            records_raw=len(table),
        )
        sealed = self._sealer.prepared(squeezed, ordinal, header.encode() + rows.tobytes())
        return SealedBatch(header, np.array(batch.records), rows, sealed, tuple(packs))

    def accepts(self, batch: SealedBatch) -> bool:
        """Return whether ``batch`` can be added: its salt is this segment's, it comes next, is not an hour younger, its
        times do not fall (a time base begins with it), and the segment does not get too many records."""
        if batch.header.salt != self._header.salt or batch.header.records >= SEGMENT_RECORDS:
            return False
        if not self._batches:
            return True
        if batch.end_sequence - self._batches[0].first_sequence >= SEGMENT_RECORDS:
            return False
        begin = self._batches[0].header.base_time
        before = self._batches[-1]
        if batch.header.base_time < before.header.base_time + 1000 * int(before.records["time_us"].max(initial=0)):
            return False
        age = (batch.header.base_time - begin) // 1000 + int(batch.records["time_us"].max(initial=0))
        return batch.first_sequence == self._batches[-1].end_sequence and age <= _LONGEST

    def add(self, batch: SealedBatch) -> None:
        """Take a sealed batch that follows the last one. Raises Refused if `accepts` says no."""
        if not self.accepts(batch):
            raise Refused(_OUT_OF_ORDER, remedy="Build the segment and begin another.")
        self._batches.append(batch)
        self._size += batch.size

    def build(self) -> SegmentObject:
        """Return the segment's object. May be called again, also after more batches. Raises Refused if it is empty."""
        if not self._batches:
            raise Refused("An empty segment is not stored.", remedy="Add a batch first.")
        begin = self._batches[0].header.base_time
        records = np.concatenate([_shifted(batch, begin) for batch in self._batches])
        rows = np.concatenate([batch.rows for batch in self._batches])
        last_time = begin + 1000 * int(records["time_us"].max(initial=0))
        first = self._batches[0].first_sequence
        index = SegmentIndex(self._machine, self._epoch, self._role, first, begin, last_time, records, rows)
        name = SegmentName(self._machine, self._epoch, self._role, first, index.end_sequence, last_time)
        packs = [pack for batch in self._batches for pack in batch.packs]
        end = seal_index(self._key, self._header, str(name), encode_index(index), rows)
        return SegmentObject(str(name), concatenated(self._header, packs, end), name)


@dataclass(frozen=True)
class SegmentObject(SealedObject):
    """A segment ready to be stored. ``segment`` holds its range and time."""

    segment: SegmentName


def _shifted(batch: SealedBatch, begin: int) -> Records:
    """The batch's records with times relative to ``begin``; a clock that went back is held at the beginning."""
    shift = (batch.header.base_time - begin) // 1000
    if not shift:
        return batch.records
    records = batch.records.copy()
    records["time_us"] = np.clip(records["time_us"].astype(np.int64) + shift, 0, _LONGEST)
    return records
