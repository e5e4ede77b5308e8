"""Queries over chunks whose copy was found to differ from the machine's disk."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import func, select

from farshore.catalog.database import Transaction
from farshore.catalog.tables import DifferenceRow


def record(tx: Transaction, row: DifferenceRow) -> bool:
    """Record a difference; return False if it was already known."""
    key = (row.machine, row.disk, row.start, row.epoch, row.sequence)
    if tx.get(DifferenceRow, key) is not None:
        return False
    tx.add(row)
    tx.flush()
    return True


def goes_on(tx: Transaction, row: DifferenceRow) -> bool:
    """Return whether the same chunk was found to differ before, at an earlier place of the epoch, and was not proven
    since."""
    same = [
        getattr(DifferenceRow, name) == getattr(row, name)
        for name in ("machine", "disk", "start", "epoch", "proven_epoch", "proven_sequence")
    ]
    return bool(tx.scalar(select(func.count()).where(*same, DifferenceRow.sequence < row.sequence)))


def count(tx: Transaction, machine: str) -> int:
    """Return the number of a machine's recorded differences."""
    found = tx.scalar(select(func.count()).select_from(DifferenceRow).where(DifferenceRow.machine == machine))
    return int(found or 0)


def listed(tx: Transaction, machine: str) -> list[DifferenceRow]:
    """Return all differences of a machine, by position."""
    wanted = select(DifferenceRow).where(DifferenceRow.machine == machine)
    return list(tx.scalars(wanted.order_by(DifferenceRow.epoch, DifferenceRow.sequence, DifferenceRow.start)))


def newest(tx: Transaction, machine: str) -> DifferenceRow | None:
    """Return a machine's difference that was found last, or None."""
    wanted = select(DifferenceRow).where(DifferenceRow.machine == machine)
    return tx.scalars(wanted.order_by(DifferenceRow.time.desc(), DifferenceRow.start).limit(1)).first()


def affecting(differences: Sequence[DifferenceRow], epoch: int, sequence: int) -> list[DifferenceRow]:
    """Return the differences that may be in the state at a position: after the last proof, and not after the
    finding."""
    at = (epoch, sequence)
    return [one for one in differences if (one.proven_epoch, one.proven_sequence) < at <= (one.epoch, one.sequence)]
