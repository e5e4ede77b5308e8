"""Queries over push accounts."""

from __future__ import annotations

from sqlalchemy import select

from farshore.catalog.database import Transaction
from farshore.catalog.tables import PushAccountRow
from farshore.model.errors import NotFound, WrongState


def every(tx: Transaction) -> list[PushAccountRow]:
    """Return all accounts, by name."""
    return list(tx.scalars(select(PushAccountRow).order_by(PushAccountRow.name)))


def get(tx: Transaction, name: str) -> PushAccountRow:
    """Return one account. Raises NotFound."""
    row = tx.get(PushAccountRow, name)
    if row is None:
        raise NotFound(f"There is no push account {name!r}.", remedy="See `farshore account list`.")
    return row


def add(tx: Transaction, row: PushAccountRow) -> None:
    """Add an account. Raises WrongState if the name is taken."""
    if tx.get(PushAccountRow, row.name) is not None:
        raise WrongState(
            f"There is a push account {row.name!r} already.",
            remedy="Choose another name, or remove that account first.",
        )
    tx.add(row)
    tx.flush()


def remove(tx: Transaction, name: str) -> None:
    """Delete an account and its secret. Raises NotFound."""
    tx.delete(get(tx, name))
