"""Queries over process servers."""

from __future__ import annotations

from sqlalchemy import select

from farshore.catalog.database import Transaction
from farshore.catalog.tables import ProcessServerRow
from farshore.model.errors import NotFound


def every(tx: Transaction) -> list[ProcessServerRow]:
    """All process servers, by id."""
    return list(tx.scalars(select(ProcessServerRow).order_by(ProcessServerRow.id)))


def get(tx: Transaction, server: str) -> ProcessServerRow:
    """One process server. Raises NotFound."""
    row = tx.get(ProcessServerRow, server)
    if row is None:
        raise NotFound(f"There is no process server {server}.", remedy="See `farshore status`.")
    return row


def register(tx: Transaction, server: str, url: str, version: str, now: int) -> ProcessServerRow:
    """A process server says where it is; it may move. It takes no machines until it has reported."""
    row = tx.get(ProcessServerRow, server)
    if row is None:
        row = ProcessServerRow(id=server, url=url, registered=now)
        tx.add(row)
    row.url, row.version, row.last_seen = url, version, now
    row.spool_bytes = row.spool_limit = 0
    tx.flush()
    return row
