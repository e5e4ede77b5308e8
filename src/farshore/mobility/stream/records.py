"""Convert the capture's fixed-size fragments to the stream's records, in numpy over whole batches.

Capture delivers one fragment of at most 4 KiB for each block of a write, and one for each discard, write-zeroes and
flush. Here neighbouring fragments of a write become one record, all-zero blocks become ZERO records without payload,
and the payload is gathered with a single copy out of the ring. Order is kept: only fragments that follow each other
both in the stream and on the disk are joined, so every prefix of the records is a prefix of the fragments.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from farshore.formats.batch import Buffer
from farshore.formats.point_payload import PointPayload, encode_point
from farshore.formats.record import FLAG_FUA, RECORD, RecordKind, Records, has_payload, payload_offsets
from farshore.model.errors import Damaged
from farshore.model.identifiers import BLOCK, SECTOR, DiskNumber

MERGED_FRAGMENTS = 256
"""Maximum of fragments joined into one record: 1 MiB, so that a point between two writes is never far."""

Fragments = npt.NDArray[Any]
"""Structured, any stride: sector (u8), time (u8, ns of the monotonic clock), length (u4, bytes), disk (u2), kind (u1),
flags (u1), data (4096 × u1): capture.layout.RING_RECORD. Kinds are those of RecordKind, up to FLUSH."""

_ONE_SECTOR = np.dtype(f"V{SECTOR}")


@dataclass(frozen=True)
class Piece:
    """Records with their payload; ``times`` are ns of the monotonic clock, one for each record, never decreasing."""

    records: Records
    times: npt.NDArray[np.int64]
    payload: Buffer


def convert(fragments: Fragments) -> Piece:
    """Return the records of one or more fragments; the result does not refer to ``fragments``.

    Raises Damaged unless every fragment holds whole sectors, and a write at most one block: otherwise its record would
    claim other bytes than its payload has, and nothing later could detect that."""
    kind = fragments["kind"].copy()
    length = fragments["length"].astype(np.int64)
    if (length % SECTOR).any() or (length[kind == RecordKind.WRITE] > BLOCK).any():
        raise Damaged(
            "A captured write is not a whole number of sectors.",
            remedy="The machine resyncs automatically. Report this defect of capture, with the kernel's version.",
        )
    kind[_zero_blocks(fragments, kind, length)] = RecordKind.ZERO
    starts = _record_starts(fragments, kind, length)
    records = np.zeros(len(starts), RECORD)
    records["sector"] = fragments["sector"][starts]
    records["disk"] = fragments["disk"][starts]
    records["kind"] = kind[starts]
    records["flags"] = fragments["flags"][starts] & FLAG_FUA
    records["sectors"] = np.add.reduceat(length, starts) // SECTOR
    records["sectors"][records["kind"] == RecordKind.FLUSH] = 0
    last = np.append(starts[1:], len(fragments)) - 1
    times = np.maximum.accumulate(fragments["time"].astype(np.int64))[last]
    return Piece(records, times, _payload(fragments["data"], kind == RecordKind.WRITE, length))


def within(piece: Piece, sizes: Mapping[DiskNumber, int]) -> Piece:
    """Return the piece without what is beyond the disks' ends; ``sizes`` are in bytes, by disk.

    A disk that has just grown takes writes there. They do not belong to the epoch, which was opened with the old size;
    the next one reads the new part of the disk."""
    records = piece.records
    ends = np.full(max(sizes, default=0) + 2, np.iinfo(np.int64).max, np.int64)
    for number, size in sizes.items():
        ends[number] = size // SECTOR
    end = ends[np.minimum(records["disk"], len(ends) - 1)]
    end[records["kind"] > RecordKind.DISCARD] = np.iinfo(np.int64).max
    length = records["sectors"].astype(np.int64)
    room = np.clip(end - records["sector"].astype(np.int64), 0, length)
    if (room == length).all():
        return piece
    offsets = payload_offsets(records)
    payload = memoryview(piece.payload)
    kept = records.copy()
    kept["sectors"] = room
    stays = (room > 0) | (length == 0)
    taken = np.flatnonzero(stays & has_payload(records))
    parts = [payload[offsets[row] : offsets[row] + int(room[row]) * SECTOR] for row in taken]
    return Piece(kept[stays], piece.times[stays], b"".join(parts))


def point_piece(point: PointPayload, time: int) -> Piece:
    """Return a recovery point as a record; ``time`` is ns of the monotonic clock."""
    payload = encode_point(point)
    return Piece(_marker(RecordKind.POINT, len(payload) // SECTOR), np.array([time], np.int64), payload)


def mark_piece(time: int) -> Piece:
    """Return the record which says that nothing was written up to ``time``."""
    return Piece(_marker(RecordKind.MARK, 0), np.array([time], np.int64), b"")


def join(pieces: Sequence[Piece]) -> Piece:
    """Join pieces into one."""
    if len(pieces) == 1:
        return pieces[0]
    records = np.concatenate([piece.records for piece in pieces])
    times = np.maximum.accumulate(np.concatenate([piece.times for piece in pieces]))
    return Piece(records, times, b"".join(piece.payload for piece in pieces))


def _marker(kind: RecordKind, sectors: int) -> Records:
    records = np.zeros(1, RECORD)
    records["kind"] = kind
    records["sectors"] = sectors
    return records


def _zero_blocks(fragments: Fragments, kind: npt.NDArray[np.uint8], length: npt.NDArray[np.int64]) -> Any:
    """Return the indexes of whole blocks of only zeroes. Three words rule out nearly every other block at once."""
    words = fragments["data"].view(np.uint64)
    middle = words.shape[1] // 2
    maybe = (words[:, 0] | words[:, middle] | words[:, -1]) == 0
    candidates = np.flatnonzero(maybe & (kind == RecordKind.WRITE) & (length == BLOCK))
    return candidates[~words[candidates].any(axis=1)]


def _record_starts(
    fragments: Fragments, kind: npt.NDArray[np.uint8], length: npt.NDArray[np.int64]
) -> npt.NDArray[np.intp]:
    """Return the index of each fragment that begins a record."""
    sector = fragments["sector"].astype(np.int64)
    disk = fragments["disk"]
    flags = fragments["flags"] & FLAG_FUA
    joined = np.zeros(len(fragments), bool)
    joined[1:] = (
        (kind[1:] == kind[:-1])
        & ((kind[1:] == RecordKind.WRITE) | (kind[1:] == RecordKind.ZERO))
        & (disk[1:] == disk[:-1])
        & (flags[1:] == flags[:-1])
        & (sector[1:] == sector[:-1] + length[:-1] // SECTOR)
    )
    index = np.arange(len(fragments))
    run_start = np.maximum.accumulate(np.where(joined, 0, index))
    return np.flatnonzero((index - run_start) % MERGED_FRAGMENTS == 0)


def _payload(data: npt.NDArray[Any], written: npt.NDArray[np.bool_], length: npt.NDArray[np.int64]) -> Buffer:
    """Return the bytes of the written fragments, copied one after another."""
    if not written.any():
        return b""
    if (length[written] == BLOCK).all():
        gathered = data.copy() if written.all() else data[written]
    else:
        sectors = data.view(_ONE_SECTOR)
        used = np.arange(BLOCK // SECTOR) < (length // SECTOR)[:, None]
        gathered = sectors[used & written[:, None]]
    return gathered.view(np.uint8).reshape(-1).data
