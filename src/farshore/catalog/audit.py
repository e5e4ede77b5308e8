"""Queries over the audit log: who changed what, who was refused; each entry contains the hash of the one before.

The table accepts no updates and no deletes (triggers), and is separate from the events, which are pruned. ``digest`` of
an entry is the SHA-256 of the previous entry's digest and of the entry's content, so a changed or missing entry breaks
the chain at that place. Whoever can write to the database file can also compute a new chain: keep an exported copy, or
its last digest, elsewhere, and compare (``farshore audit verify --head``).
"""

from __future__ import annotations

import json
from typing import Any

from sqlalchemy import select

from farshore.api_types.audit import FIRST, entry_digest
from farshore.catalog.database import Transaction
from farshore.catalog.tables import AuditRow


def append(
    tx: Transaction,
    *,
    time: int,
    kind: str,
    actor: str,
    subject: str,
    message: str,
    source: str = "",
    detail: dict[str, Any] | None = None,
) -> None:
    """Write one entry, in the transaction of the change that it describes. ``source`` is the address of the caller."""
    last = tx.execute(select(AuditRow.id, AuditRow.digest).order_by(AuditRow.id.desc()).limit(1)).first()
    number, previous = (last[0] + 1, last[1]) if last is not None else (1, FIRST)
    fields = {
        "id": number,
        "time": time,
        "kind": kind,
        "actor": actor,
        "source": source,
        "subject": subject,
        "message": message,
        "detail": json.loads(json.dumps(detail or {})),  # as it will be read: the digest covers that form
    }
    tx.add(AuditRow(**fields, previous=previous, digest=entry_digest(previous, fields)))
    tx.flush()


def listed(tx: Transaction, *, after: int = 0, limit: int = 1000, newest: bool = False) -> list[AuditRow]:
    """Return entries with an id above ``after``, oldest first; with ``newest`` the last ``limit`` of them."""
    wanted = select(AuditRow).where(AuditRow.id > after).limit(limit)
    if newest:
        return list(tx.scalars(wanted.order_by(AuditRow.id.desc())))[::-1]
    return list(tx.scalars(wanted.order_by(AuditRow.id)))
