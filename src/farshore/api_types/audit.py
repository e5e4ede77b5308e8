"""The audit log as it is listed and exported, and the computation of its chain of hashes."""

from __future__ import annotations

import hashlib
import json
from typing import Any, Dict, Mapping

from farshore.api_types.body import Body, Moment

FIRST = "0" * 64
"""The previous digest of the first entry."""
FIELDS = ("id", "time", "kind", "actor", "source", "subject", "message", "detail")


class AuditEntry(Body):
    """One entry (``GET /v1/audit``). Ids are dense, from 1. ``time`` is ns since 1970 UTC, ``source`` the caller's
    address. ``digest`` is ``entry_digest`` of ``previous``, the digest of the entry before, and of the other fields."""

    id: int
    time: Moment
    kind: str
    actor: str
    source: str = ""
    subject: str
    message: str
    detail: Dict[str, Any] = {}
    previous: str
    digest: str


def entry_digest(previous: str, fields: Mapping[str, Any]) -> str:
    """Return SHA-256, in hex, of the previous digest, a line feed, and ``FIELDS`` as JSON: keys sorted, ASCII, no
    spaces."""
    said = {name: fields[name] for name in FIELDS}
    text = json.dumps(said, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(f"{previous}\n{text}".encode("ascii")).hexdigest()
