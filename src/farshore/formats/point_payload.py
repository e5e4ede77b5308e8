"""The payload of a POINT record: the recovery point that the stream has reached.

Described in docs/formats/record.md. JSON, padded with spaces to whole sectors; the position is the record's own and the
time is the record's time.

A payload names an object in the vault and a row of the catalog, and is shown to people. So both sides check it by one
rule: the agent before it cuts a point, the process server before it acknowledges one.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

import numpy as np

from farshore.formats.batch import Buffer
from farshore.formats.record import RecordKind, Records, payload_offsets
from farshore.model.errors import Malformed
from farshore.model.identifiers import SECTOR, PointId
from farshore.model.point import PointKind

MAXIMUM_BYTES = 8 << 10
MOST_IN_A_BATCH = 256
_ID = re.compile(r"[0-9A-Za-z_-]{1,64}")
_NAME = re.compile(r"[^\x00-\x1f\x7f-\x9f\ud800-\udfff]{0,200}")


@dataclass(frozen=True)
class PointPayload:
    """``name`` is the name that a user gave it, or empty."""

    id: PointId
    kind: PointKind
    name: str = ""


def encode_point(point: PointPayload) -> bytes:
    """Return the payload, a multiple of 512 bytes. Raises Malformed for an id or a name that a receiver would
    refuse."""
    _check(point.id, point.name)
    text = json.dumps({"id": point.id, "kind": point.kind.value, "name": point.name}).encode()
    return text + b" " * (-len(text) % SECTOR)


def decode_point(data: Buffer) -> PointPayload:
    """Read a payload. Raises Malformed for any bytes that are not one."""
    if len(data) > MAXIMUM_BYTES:
        raise _unreadable(f"it has {len(data)} bytes, and at most {MAXIMUM_BYTES} are taken")
    try:
        fields: Any = json.loads(bytes(data))
        found = PointPayload(PointId(fields["id"]), PointKind(fields["kind"]), fields.get("name", ""))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as cause:
        raise _unreadable("it is not the document that the format describes") from cause
    _check(found.id, found.name)
    return found


def check_points(records: Records, payload: Buffer) -> None:
    """Raise Malformed unless every POINT record in ``records`` can be read. ``payload`` is the payload of all
    records."""
    places = np.flatnonzero(records["kind"] == RecordKind.POINT)
    if not len(places):
        return
    if len(places) > MOST_IN_A_BATCH:
        raise Malformed(
            f"The batch holds {len(places)} recovery points; the limit is {MOST_IN_A_BATCH}.",
            remedy="Send smaller batches.",
        )
    offsets = payload_offsets(records)
    view = memoryview(payload)
    for place in places.tolist():
        decode_point(view[int(offsets[place]) : int(offsets[place + 1])])


def _check(point_id: object, name: object) -> None:
    if not isinstance(point_id, str) or not _ID.fullmatch(point_id):
        raise _unreadable("its id has other characters than letters, digits, - and _, or not 1 to 64 of them")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise _unreadable("its name has control characters, or more than 200 characters")


def _unreadable(why: str) -> Malformed:
    return Malformed(f"A recovery point in the batch is not valid: {why}.", remedy="Request the point again.")
