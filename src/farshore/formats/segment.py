"""The segment, a sealed piece of a machine's stream, and the sealed batch, from which it is made.

Byte tables: docs/formats/segment.md and docs/formats/sealed-batch.md. A segment's index holds the records, its packs
hold the payload. A process server keeps sealed batches in its spool: the same packs, which later become part of a
segment unchanged, and the records, also encrypted.
"""

from __future__ import annotations

import struct
import uuid
from dataclasses import dataclass
from typing import Any, Tuple

import numpy as np

from farshore.formats.batch import Buffer, Role
from farshore.formats.container import PACK_ROW, PackRows
from farshore.formats.record import RECORD, RECORD_BYTES, Records
from farshore.model.errors import Damaged, Unsupported
from farshore.model.identifiers import Epoch, MachineId, Sequence

INDEX = struct.Struct("<16sIHHQQQII")
"""machine, epoch, role, reserved, first sequence, base time ns, last time ns, records, packs."""
SEALED_MAGIC = b"FARSEALD"
SEALED_VERSION = 1
SEALED = struct.Struct("<8sHHI16s16s16sQQIIIII4x")
"""magic, version, role, epoch, machine, salt, key id, first sequence, base time ns, records, packs,
records' ordinal, bytes of the sealed records, bytes of the raw records."""


@dataclass(frozen=True)
class SegmentIndex:
    """A segment's index. Record times are relative to ``base_time``; times are ns since 1970 UTC."""

    machine: MachineId
    epoch: Epoch
    role: Role
    first_sequence: Sequence
    base_time: int
    last_time: int
    records: Records
    packs: PackRows

    @property
    def end_sequence(self) -> Sequence:
        """The sequence after the last record."""
        return Sequence(self.first_sequence + len(self.records))


def encode_index(index: SegmentIndex) -> bytes:
    """Return the plaintext of a segment's index."""
    return b"".join(
        (
            INDEX.pack(
                uuid.UUID(index.machine).bytes,
                index.epoch,
                index.role,
                0,
                index.first_sequence,
                index.base_time,
                index.last_time,
                len(index.records),
                len(index.packs),
            ),
            index.records.tobytes(),
            index.packs.tobytes(),
        )
    )


def decode_index(data: Buffer, name: str) -> SegmentIndex:
    """Read an index that has been authenticated; arrays are views of ``data``. Raises Damaged."""
    view = memoryview(data)
    if len(view) < INDEX.size:
        raise _inconsistent(name)
    machine, epoch, role, _, first, base_time, last_time, count, packs = INDEX.unpack_from(view)
    table = INDEX.size + count * RECORD_BYTES
    if len(view) != table + packs * PACK_ROW.itemsize or role not in (Role.JOURNAL, Role.BASE):
        raise _inconsistent(name)
    return SegmentIndex(
        MachineId(str(uuid.UUID(bytes=machine))),
        Epoch(epoch),
        Role(role),
        Sequence(first),
        base_time,
        last_time,
        np.frombuffer(view, RECORD, count, INDEX.size),
        np.frombuffer(view, PACK_ROW, packs, table),
    )


@dataclass(frozen=True)
class SealedHeader:
    """The unencrypted header of a sealed batch; it is authenticated together with the pack table."""

    machine: MachineId
    epoch: Epoch
    role: Role
    salt: bytes
    key_id: bytes
    first_sequence: Sequence
    base_time: int
    records: int
    packs: int
    records_ordinal: int
    records_stored: int
    records_raw: int

    def encode(self) -> bytes:
        """Return the header's bytes."""
        return SEALED.pack(
            SEALED_MAGIC,
            SEALED_VERSION,
            self.role,
            self.epoch,
            uuid.UUID(self.machine).bytes,
            self.salt,
            self.key_id,
            self.first_sequence,
            self.base_time,
            self.records,
            self.packs,
            self.records_ordinal,
            self.records_stored,
            self.records_raw,
        )


def decode_sealed(data: Buffer) -> Tuple[SealedHeader, Any, memoryview, memoryview]:
    """Split a sealed batch into header, pack table, sealed records and packs; views of ``data``.

    Raises Damaged for anything but a complete sealed batch, Unsupported for another version."""
    view = memoryview(data)
    broken = Damaged(
        "A sealed batch is truncated.", remedy="If it was never acknowledged, nothing is lost: the sender still has it."
    )
    if len(view) < SEALED.size or bytes(view[:8]) != SEALED_MAGIC:
        raise broken
    fields = SEALED.unpack_from(view)
    if fields[1] != SEALED_VERSION:
        raise Unsupported(
            f"Sealed batch version {fields[1]} is not known to this release.", remedy="Upgrade the process server."
        )
    if fields[2] not in (Role.JOURNAL, Role.BASE):
        raise broken
    header = SealedHeader(
        machine=MachineId(str(uuid.UUID(bytes=fields[4]))),
        epoch=Epoch(fields[3]),
        role=Role(fields[2]),
        salt=fields[5],
        key_id=fields[6],
        first_sequence=Sequence(fields[7]),
        base_time=fields[8],
        records=fields[9],
        packs=fields[10],
        records_ordinal=fields[11],
        records_stored=fields[12],
        records_raw=fields[13],
    )
    table_end = SEALED.size + header.packs * PACK_ROW.itemsize
    records_end = table_end + header.records_stored
    if len(view) < records_end:
        raise broken
    table = np.frombuffer(view, PACK_ROW, header.packs, SEALED.size)
    if len(view) != records_end + int(table["stored"].sum(dtype=np.int64)):
        raise broken
    return header, table, view[table_end:records_end], view[records_end:]


def _inconsistent(name: str) -> Damaged:
    return Damaged(f"The index of {name} is inconsistent.", remedy="Run `farshore vault verify`.")
