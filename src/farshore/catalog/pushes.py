"""Queries over pushes that process servers carry out. A row exists from a job's request until the job ends."""

from __future__ import annotations

from sqlalchemy import func, select

from farshore.catalog import tokens
from farshore.catalog.database import Transaction
from farshore.catalog.delegated import DelegatedState
from farshore.catalog.tables import PushRow


def find(tx: Transaction, push: str) -> PushRow | None:
    """Return one push, by the id of its job."""
    return tx.get(PushRow, push)


def ask(tx: Transaction, row: PushRow) -> None:
    """Add a push for a process server."""
    tx.add(row)
    tx.flush()


def open_of(tx: Transaction, server: str) -> list[str]:
    """Return the ids of the pushes that a process server has to begin or continue, oldest first."""
    wanted = select(PushRow.id).where(PushRow.server == server, PushRow.state != DelegatedState.ENDED.value)
    return list(tx.scalars(wanted.order_by(PushRow.created, PushRow.id)))


def begun_by(tx: Transaction, server: str) -> tuple[int, int]:
    """Return the number of pushes that a process server has begun, and how often it has reported on them."""
    counted = select(func.count(), func.sum(PushRow.signs)).where(
        PushRow.server == server, PushRow.state == DelegatedState.BEGUN.value
    )
    count, signs = tx.execute(counted).one()
    return count, signs or 0


def drop(tx: Transaction, push: str) -> None:
    """Delete a push, and its token if that is still unused; it may be deleted already. The process server learns that
    it is no longer wanted."""
    row = tx.get(PushRow, push)
    if row is not None:
        tokens.revoke_unused(tx, row.token)
        tx.delete(row)
