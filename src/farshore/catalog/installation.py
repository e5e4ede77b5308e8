"""Queries over the one row that identifies this installation."""

from __future__ import annotations

from sqlalchemy import select

from farshore.catalog.database import Transaction
from farshore.catalog.tables import InstallationRow, MachineRow


def find(tx: Transaction) -> InstallationRow | None:
    """Return the installation, or None if the catalog is new, or of a release before there was such a row."""
    return tx.scalar(select(InstallationRow))


def put(tx: Transaction, row: InstallationRow) -> InstallationRow:
    """Store the installation's row in a catalog that has none."""
    tx.add(row)
    tx.flush()
    return row


def epochs_from(tx: Transaction) -> int:
    """Return the number above which this installation numbers its epochs."""
    row = find(tx)
    return 0 if row is None else row.epochs_from


def is_blank(tx: Transaction) -> bool:
    """Return whether the catalog knows no machine at all."""
    return tx.scalar(select(MachineRow.id).limit(1)) is None
