"""The batch: the unit in which a mobility service sends records to its process server and keeps them in the .hrl file.

Byte table: docs/formats/batch.md. A batch is idempotent: it is identified by machine, epoch, role, first sequence and
count.
"""

from __future__ import annotations

import enum
import struct
import uuid
from dataclasses import dataclass
from typing import List, Union

import numpy as np
from blake3 import blake3

from farshore.formats.record import RECORD, RECORD_BYTES, Records, check_records, payload_offsets
from farshore.model.errors import Damaged, Malformed, Unsupported
from farshore.model.identifiers import Epoch, MachineId, Sequence

MAGIC = b"FARBATCH"
VERSION = 1
HEADER = struct.Struct("<8sHBB16sIQIIQQ16s")
"""magic, version, role, reserved, machine, epoch, first sequence, records, payload bytes, base time ns, captured ns,
digest."""
HEADER_BYTES = HEADER.size
DIGEST_BYTES = 16
MAXIMUM_BYTES = 32 << 20
"""A receiver refuses a larger batch; senders aim at 4 MiB."""
MOST_RECORDS = 1 << 20
"""A receiver refuses a batch with this many records: a segment, which holds whole batches, has fewer."""

LATEST = (1 << 63) - (1 << 42)
"""The latest base time, ns, that leaves room for the records' own times."""

Buffer = Union[bytes, bytearray, memoryview]


class Role(enum.IntEnum):
    """The part of an epoch that a batch belongs to; each role has its own dense sequence from 1."""

    JOURNAL = 0
    """Captured writes, in order."""
    BASE = 1
    """Copied blocks: every journal record of the epoch overrides them."""


@dataclass(frozen=True)
class Batch:
    """``payload`` holds the bytes of all records that have a payload, in order. ``base_time`` is ns since 1970 UTC by
    the sender's wall clock; ``captured`` is the last record's time, ns of the sender's monotonic clock, or 0 if
    unknown."""

    machine: MachineId
    epoch: Epoch
    role: Role
    first_sequence: Sequence
    base_time: int
    records: Records
    payload: Buffer
    captured: int = 0
    digest: bytes = b""
    """The bytes as they were received; empty for a batch that was created here."""

    @property
    def end_sequence(self) -> Sequence:
        """The sequence after the last record, at which the next batch must begin."""
        return Sequence(self.first_sequence + len(self.records))


def encode(batch: Batch) -> List[Buffer]:
    """Return the buffers that make up the batch on the wire, in order, without copying the payload."""
    table = np.ascontiguousarray(batch.records).data.cast("B") if len(batch.records) else memoryview(b"")
    prefix = HEADER.pack(
        MAGIC,
        VERSION,
        batch.role,
        0,
        uuid.UUID(batch.machine).bytes,
        batch.epoch,
        batch.first_sequence,
        len(batch.records),
        len(batch.payload),
        batch.base_time,
        batch.captured,
        bytes(DIGEST_BYTES),
    )
    digest = blake3(prefix).update(table).update(batch.payload).digest(DIGEST_BYTES)
    return [prefix[:-DIGEST_BYTES] + digest, table, batch.payload]


def decode(data: Buffer) -> Batch:
    """Read one whole batch; records and payload are views of ``data``.

    Raises Malformed for anything that is not a batch, and if records and payload disagree; Unsupported for another
    version; Damaged if the digest differs."""
    view = memoryview(data)
    if len(view) < HEADER_BYTES or bytes(view[:8]) != MAGIC:
        raise Malformed("These bytes are not a batch.", remedy="Upgrade the older side.")
    _, version, role, _, machine, epoch, first, count, length, base_time, captured, digest = HEADER.unpack_from(view)
    if version != VERSION:
        raise Unsupported(f"Batch version {version} is not known to this release.", remedy="Upgrade the older side.")
    table_end = HEADER_BYTES + count * RECORD_BYTES
    if len(view) != table_end + length or role not in (Role.JOURNAL, Role.BASE):
        raise Malformed("The batch has the wrong length.", remedy="Send it again.")
    check = blake3(view[: HEADER_BYTES - DIGEST_BYTES]).update(bytes(DIGEST_BYTES)).update(view[HEADER_BYTES:])
    if check.digest(DIGEST_BYTES) != digest:
        raise Damaged(
            "The batch was altered in transit.",
            remedy="The sender repeats it automatically. If this recurs, check the machine's memory and network.",
        )
    if base_time > LATEST:
        raise Malformed("The batch's time is out of range.", remedy="Set the machine's clock.")
    records = np.frombuffer(view, RECORD, count, HEADER_BYTES)
    check_records(records)
    if int(payload_offsets(records)[-1]) != length:
        raise Malformed("The lengths of the records do not match the payload.", remedy="Resync the machine.")
    if count >= MOST_RECORDS:
        raise Malformed(
            f"The batch holds {count} records; the limit is {MOST_RECORDS - 1}.", remedy="Upgrade the older side."
        )
    if first + count >= 1 << 63:
        raise Malformed("The batch's sequence is larger than 63 bits.", remedy="Open a new epoch.")
    return Batch(
        MachineId(str(uuid.UUID(bytes=machine))),
        Epoch(epoch),
        Role(role),
        Sequence(first),
        base_time,
        records,
        view[table_end:],
        captured,
        digest,
    )
