"""The stream record: one write, discard or marker. Shared by batches, the .hrl file, the spool and segments.

Byte table: docs/formats/record.md. Payloads follow the records they belong to, in order, without gaps, so a
record's payload offset is the sum of the payload lengths before it.
"""

from __future__ import annotations

import enum
from typing import Any, Mapping, NamedTuple

import numpy as np
import numpy.typing as npt

from farshore.model.errors import Malformed
from farshore.model.identifiers import SECTOR


class RecordKind(enum.IntEnum):
    """What a record tells."""

    WRITE = 1
    """``sectors`` × 512 bytes of payload, to be read back from ``sector`` on."""
    ZERO = 2
    """The range reads as zeroes."""
    DISCARD = 3
    """The range's contents no longer matter; replicas read it as zeroes."""
    FLUSH = 4
    """All writes before it in the stream that had completed are on stable storage."""
    POINT = 5
    """A recovery point; the payload is a JSON document padded with spaces to whole sectors (docs/formats/record.md)."""
    MARK = 6
    """Nothing was written up to this time: it keeps the newest point young while a machine is idle."""


RECORD: np.dtype[Any] = np.dtype(
    [
        ("sector", "<u8"),
        ("sectors", "<u4"),
        ("time_us", "<u4"),  # since the base time of the batch or segment that holds the record
        ("disk", "<u2"),
        ("kind", "u1"),
        ("flags", "u1"),
        ("reserved", "<u4"),
    ]
)
RECORD_BYTES = RECORD.itemsize  # 24
FLAG_FUA = 1
_MOST_SECTORS = 1 << 54
_RESYNC = "Resync the machine: `farshore machine resync`."

Records = npt.NDArray[Any]
"""A one-dimensional array of dtype RECORD."""


def has_payload(records: Records) -> npt.NDArray[np.bool_]:
    """Which records carry payload."""
    kind = records["kind"]
    mask: npt.NDArray[np.bool_] = (kind == RecordKind.WRITE) | (kind == RecordKind.POINT)
    return mask


def payload_offsets(records: Records) -> npt.NDArray[np.int64]:
    """Byte offset of each record's payload; one more entry than records, the last being the total."""
    lengths = np.where(has_payload(records), records["sectors"].astype(np.int64) * SECTOR, 0)
    offsets = np.zeros(len(records) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return offsets


def check_records(records: Records) -> None:
    """Raise Malformed unless each record is one that docs/formats/record.md allows: a known kind, a length where its
    kind has one and only there, a place below 2⁶³ bytes, no flag or reserved bit that is not known."""
    kind = records["kind"]
    if ((kind < RecordKind.WRITE) | (kind > RecordKind.MARK)).any():
        raise Malformed("A record has an unknown kind.", remedy="Upgrade the receiver, or resync the machine.")
    if (records["sector"] > np.uint64(_MOST_SECTORS) - records["sectors"]).any():
        raise Malformed("A record's address is beyond any disk.", remedy=_RESYNC)
    marker = (kind == RecordKind.FLUSH) | (kind == RecordKind.MARK)
    if ((records["sectors"] == 0) != marker).any():
        raise Malformed("A record has no length, or a marker has one.", remedy=_RESYNC)
    if (records["flags"] & ~np.uint8(FLAG_FUA)).any() or records["reserved"].any():
        raise Malformed("A record has bits that are not known here.", remedy="Upgrade the older side.")


class DiskRoom(NamedTuple):
    """Where a disk's records may lie, in sectors."""

    sectors: int
    step: int
    """They begin and end at multiples of it: the disk's own block."""


def check_places(records: Records, disks: Mapping[int, DiskRoom]) -> None:
    """Raise Malformed unless every record of a disk is of one of ``disks``, within it, and holds whole blocks of it."""
    placed = records[(records["kind"] >= RecordKind.WRITE) & (records["kind"] <= RecordKind.DISCARD)]
    if not len(placed):
        return
    rooms = np.zeros((max(disks, default=0) + 1, 2), np.int64)
    for number, room in disks.items():
        rooms[number] = room
    disk = placed["disk"]
    if disk.max() >= len(rooms) or not rooms[disk, 0].all():
        raise Malformed("A record is of a disk that the epoch does not have.", remedy=_RESYNC)
    sector, sectors = placed["sector"].astype(np.int64), placed["sectors"].astype(np.int64)
    if (sector + sectors > rooms[disk, 0]).any():
        raise Malformed("A record lies beyond the end of its disk.", remedy=_RESYNC)
    if ((sector | sectors) % rooms[disk, 1]).any():
        raise Malformed("A record cuts a block of its disk in two.", remedy=_RESYNC)
