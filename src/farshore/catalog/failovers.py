"""Queries over failovers and test failovers."""

from __future__ import annotations

from sqlalchemy import select

from farshore.catalog.database import Transaction
from farshore.catalog.tables import FailoverRow
from farshore.model.errors import NotFound


def add(tx: Transaction, row: FailoverRow) -> None:
    """A failover that was asked for; one with the same id is there once."""
    if tx.get(FailoverRow, row.id) is None:
        tx.add(row)
        tx.flush()


def every(tx: Transaction, machine: str | None = None, limit: int = 100) -> list[FailoverRow]:
    """Failovers, newest first; of one machine or of all."""
    wanted = select(FailoverRow).order_by(FailoverRow.requested.desc()).limit(limit)
    if machine is not None:
        wanted = wanted.where(FailoverRow.machine == machine)
    return list(tx.scalars(wanted))


def get(tx: Transaction, failover: str) -> FailoverRow:
    """One failover. Raises NotFound."""
    row = tx.get(FailoverRow, failover)
    if row is None:
        raise NotFound(f"There is no failover {failover}.", remedy="See `farshore failover list`.")
    return row
