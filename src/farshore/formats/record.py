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


_WRITE, _DISCARD, _FLUSH = int(RecordKind.WRITE), int(RecordKind.DISCARD), int(RecordKind.FLUSH)
_POINT, _MARK = int(RecordKind.POINT), int(RecordKind.MARK)

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
    """Return which records carry payload."""
    kind = records["kind"]
    mask: npt.NDArray[np.bool_] = (kind == _WRITE) | (kind == _POINT)
    return mask


def payload_offsets(records: Records) -> npt.NDArray[np.int64]:
    """Return the byte offset of each record's payload; one more entry than records, the last being the total."""
    offsets = np.zeros(len(records) + 1, np.int64)
    lengths = offsets[1:]
    np.multiply(records["sectors"], has_payload(records), out=lengths)
    lengths *= SECTOR
    np.cumsum(lengths, out=lengths)
    return offsets


def check_records(records: Records) -> None:
    """Raise Malformed unless each record is one that docs/formats/record.md allows: a known kind, a length where its
    kind has one and only there, a place below 2⁶³ bytes, no flag or reserved bit that is not known."""
    if not len(records):
        return
    # Most batches hold a dozen records: what costs is the number of operations. So extremes are looked at first.
    kind, sectors = records["kind"], records["sectors"]
    lowest, highest = int(kind.min()), int(kind.max())
    if lowest < _WRITE or highest > _MARK:
        raise Malformed("A record has an unknown kind.", remedy="Upgrade the receiver, or resync the machine.")
    far = int(records["sector"].max()) + int(sectors.max()) > _MOST_SECTORS
    if far and (records["sector"] > np.uint64(_MOST_SECTORS) - sectors).any():
        raise Malformed("A record's address is out of range.", remedy=_RESYNC)
    marker = (kind == _FLUSH) | (kind == _MARK) if highest >= _FLUSH else False
    if ((sectors == 0) != marker).any():
        raise Malformed("A record has no length, or a marker has a length.", remedy=_RESYNC)
    if int(records["flags"].max()) > FLAG_FUA or records["reserved"].any():
        raise Malformed("A record has flags that this release does not know.", remedy="Upgrade the older side.")


class DiskRoom(NamedTuple):
    """Where a disk's records may lie, in sectors."""

    sectors: int
    step: int
    """They begin and end at multiples of it: the disk's own block."""


def check_places(records: Records, disks: Mapping[int, DiskRoom]) -> None:
    """Raise Malformed unless every record of a disk is of one of ``disks``, within it, and holds whole blocks of it."""
    kind = records["kind"]
    of_disks = (kind >= _WRITE) & (kind <= _DISCARD)
    placed = records if of_disks.all() else records[of_disks]
    if not len(placed):
        return
    disk = placed["disk"]
    sector, sectors = placed["sector"].astype(np.int64), placed["sectors"].astype(np.int64)
    room, steps = _rooms_of(disk, disks)
    if (sector + sectors > room).any():
        raise Malformed("A record lies beyond the end of its disk.", remedy=_RESYNC)
    if ((sector | sectors) % steps).any():
        raise Malformed("A record is not aligned to the sectors of its disk.", remedy=_RESYNC)


def _rooms_of(disk: npt.NDArray[np.uint16], disks: Mapping[int, DiskRoom]) -> tuple[Any, Any]:
    """The sectors and the step of each record's disk; one number each where all are of one disk."""
    first = int(disk[0])
    if (disk == first).all() and first in disks and disks[first].sectors:
        return disks[first]
    rooms = np.zeros((max(disks, default=0) + 1, 2), np.int64)
    for number, room in disks.items():
        rooms[number] = room
    if disk.max() >= len(rooms) or not rooms[disk, 0].all():
        raise Malformed("A record belongs to a disk that is not part of the epoch.", remedy=_RESYNC)
    return rooms[disk, 0], rooms[disk, 1]
