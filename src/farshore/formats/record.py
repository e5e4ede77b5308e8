"""The stream record: one write, discard or marker. Used in batches, the .hrl file, the spool and segments.

Byte table: docs/formats/record.md. The payloads follow the records in the same order, without gaps, so a record's
payload offset is the sum of the payload lengths before it.
"""

from __future__ import annotations

import enum
from typing import Any, Mapping, NamedTuple

import numpy as np
import numpy.typing as npt

from farshore.model.errors import Malformed
from farshore.model.identifiers import SECTOR


class RecordKind(enum.IntEnum):
    """The type of a record."""

    WRITE = 1
    """``sectors`` × 512 bytes of payload, written from ``sector`` on."""
    ZERO = 2
    """The range reads as zeroes."""
    DISCARD = 3
    """The range's contents no longer matter; replicas read it as zeroes."""
    FLUSH = 4
    """All writes that precede it in the stream and had completed are on stable storage."""
    POINT = 5
    """A recovery point; the payload is a JSON document padded with spaces to whole sectors (docs/formats/record.md)."""
    MARK = 6
    """Nothing was written up to this time; it keeps the newest point recent while a machine is idle."""


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
    """Return the byte offset of each record's payload, and as last entry the total."""
    offsets = np.zeros(len(records) + 1, np.int64)
    lengths = offsets[1:]
    np.multiply(records["sectors"], has_payload(records), out=lengths)
    lengths *= SECTOR
    np.cumsum(lengths, out=lengths)
    return offsets


def check_records(records: Records) -> None:
    """Raise Malformed unless docs/formats/record.md allows each record: a known kind, a length exactly if its kind has
    one, a place below 2⁶³ bytes, and no unknown flag or reserved bit."""
    if not len(records):
        return
    # Most batches hold a dozen records, so the number of operations is the cost. Therefore extremes are checked
    # first.
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
    """The range for a disk's records, in sectors."""

    sectors: int
    step: int
    """They begin and end at multiples of this: the disk's block size."""


def check_places(records: Records, disks: Mapping[int, DiskRoom]) -> None:
    """Raise Malformed unless every record that has a disk is of one of ``disks``, within its size, and of whole
    blocks."""
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
    """Return the size in sectors and the block size of each record's disk; one number each if all have the same
    disk."""
    first = int(disk[0])
    if (disk == first).all() and first in disks and disks[first].sectors:
        return disks[first]
    rooms = np.zeros((max(disks, default=0) + 1, 2), np.int64)
    for number, room in disks.items():
        rooms[number] = room
    if disk.max() >= len(rooms) or not rooms[disk, 0].all():
        raise Malformed("A record belongs to a disk that is not part of the epoch.", remedy=_RESYNC)
    return rooms[disk, 0], rooms[disk, 1]
