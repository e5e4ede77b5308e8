"""The stream record: one write, discard or marker. Shared by batches, the .hrl file, the spool and segments.

Byte table: docs/formats/record.md. Payloads follow the records they belong to, in order, without gaps, so a
record's payload offset is the sum of the payload lengths before it.
"""

from __future__ import annotations

import enum
from typing import Any

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
    """Raise Malformed unless every record has a known kind and an address that stays below 2⁶³ bytes."""
    kind = records["kind"]
    if ((kind < RecordKind.WRITE) | (kind > RecordKind.MARK)).any():
        raise Malformed("A record has an unknown kind.", remedy="Upgrade the receiver, or resync the machine.")
    if (records["sector"] >= np.uint64(1 << 54)).any():
        raise Malformed("A record's address is beyond any disk.", remedy="Resync the machine.")
