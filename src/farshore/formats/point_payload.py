"""The payload of a POINT record: which recovery point the stream has reached.

Described in docs/formats/record.md. JSON, padded with spaces to whole sectors; the position is the record's own
and the time is the record's time.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from farshore.formats.batch import Buffer
from farshore.model.errors import Malformed
from farshore.model.identifiers import SECTOR, PointId
from farshore.model.point import PointKind


@dataclass(frozen=True)
class PointPayload:
    """``name`` is what a user called it, or empty."""

    id: PointId
    kind: PointKind
    name: str = ""


def encode_point(point: PointPayload) -> bytes:
    """The payload, a multiple of 512 bytes."""
    text = json.dumps({"id": point.id, "kind": point.kind.value, "name": point.name}).encode()
    return text + b" " * (-len(text) % SECTOR)


def decode_point(data: Buffer) -> PointPayload:
    """Read a payload. Raises Malformed."""
    try:
        fields = json.loads(bytes(data))
        return PointPayload(PointId(str(fields["id"])), PointKind(fields["kind"]), str(fields.get("name", "")))
    except (ValueError, KeyError, TypeError) as cause:
        raise Malformed("A recovery point in the stream cannot be read.", remedy="Request the point again.") from cause
