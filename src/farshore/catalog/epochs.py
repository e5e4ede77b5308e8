"""Queries over epochs: who may continue a machine's stream.

Fencing is one write transaction: it closes the open epoch and, for a grant, adds the next. An agent or process server
that still has the old number is refused from then on.
"""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy import and_, func, select, tuple_, update
from sqlalchemy.orm import defer

from farshore.catalog.database import Transaction, portions
from farshore.catalog.tables import EpochRow, MachineRow
from farshore.model.errors import NotFound
from farshore.model.identifiers import Epoch, MachineId

_HARDWARE = "hardware_id"


def get(tx: Transaction, machine: str, epoch: int) -> EpochRow:
    """Return one epoch. Raises NotFound."""
    row = tx.get(EpochRow, (machine, epoch))
    if row is None:
        raise NotFound(
            f"Machine {machine} has no epoch {epoch}.", remedy="The agent requests a new epoch automatically."
        )
    return row


def named(tx: Transaction, names: Collection[tuple[str, int]]) -> list[tuple[EpochRow, str]]:
    """Return those of these epochs, (machine, epoch), that exist, in a few statements, each with the hardware id of its
    sender (``hardware_of``). The descriptions are loaded only when they are used."""
    found: list[tuple[EpochRow, str]] = []
    hardware = EpochRow.description[_HARDWARE].as_string()
    wanted = select(EpochRow, hardware).options(defer(EpochRow.description))
    for some in portions(sorted(names)):
        rows = tx.execute(wanted.where(tuple_(EpochRow.machine, EpochRow.epoch).in_(some)))
        found += [(row, told or "") for row, told in rows]
    return found


def hardware_of(row: EpochRow) -> str:
    """Return the hardware id of the machine that the epoch was granted to; empty: it has none."""
    return str(row.description.get(_HARDWARE, ""))


def newest(tx: Transaction, machine: str) -> EpochRow | None:
    """Return the newest epoch, open or closed."""
    ordered = select(EpochRow).where(EpochRow.machine == machine).order_by(EpochRow.epoch.desc())
    return tx.scalar(ordered.limit(1))


def newest_consistent(tx: Transaction, machine: str) -> EpochRow | None:
    """Return the newest epoch with usable points: what a resync can build on."""
    usable = select(EpochRow).where(EpochRow.machine == machine, EpochRow.consistent)
    return tx.scalar(usable.order_by(EpochRow.epoch.desc()).limit(1))


def close_open(tx: Transaction, machine: MachineId, now: int, reason: str) -> None:
    """Fence the machine: the holder of an epoch may send nothing more."""
    still_open = update(EpochRow).where(EpochRow.machine == machine, EpochRow.closed == 0)
    tx.execute(still_open.values(closed=now, close_reason=reason))
    tx.expire_all()


def add(tx: Transaction, row: EpochRow) -> None:
    """Add the epoch of a grant."""
    tx.add(row)
    tx.flush()


def streaming(tx: Transaction) -> set[str]:
    """Return the machines that have an open epoch."""
    return set(tx.scalars(select(EpochRow.machine).where(EpochRow.closed == 0)))


def domain_names(tx: Transaction, of: Collection[MachineRow]) -> dict[str, str]:
    """Return the name of the deduplication domain of the newest epoch, by machine, for those of these that have an
    epoch."""
    found: dict[str, str] = {}
    columns = select(EpochRow.machine, EpochRow.domain_name)
    for some in portions(sorted((row.id, row.epoch) for row in of)):
        wanted = columns.where(tuple_(EpochRow.machine, EpochRow.epoch).in_(some))
        found.update((str(machine), str(name)) for machine, name in tx.execute(wanted))
    return found


def shapes(tx: Transaction) -> tuple[dict[str, tuple[object, ...]], dict[str, int]]:
    """Return two mappings by machine. First: number, consistency and end of the newest epoch, and the newest consistent
    one. Second: the last position with data, in all its epochs together."""
    newest = and_(EpochRow.machine == MachineRow.id, EpochRow.epoch == MachineRow.epoch)
    columns = (EpochRow.machine, EpochRow.epoch, EpochRow.consistent, EpochRow.closed)
    found = {str(row[0]): tuple(row[1:]) for row in tx.execute(select(*columns).join(MachineRow, newest))}
    whole = select(EpochRow.machine, func.max(EpochRow.epoch)).where(EpochRow.consistent).group_by(EpochRow.machine)
    usable = {str(machine): epoch for machine, epoch in tx.execute(whole)}
    ends = select(EpochRow.machine, func.sum(EpochRow.written)).group_by(EpochRow.machine)
    written = {str(machine): int(end) for machine, end in tx.execute(ends)}
    return {machine: (*shape, usable.get(machine, 0)) for machine, shape in found.items()}, written


def history(tx: Transaction, machine: str) -> list[EpochRow]:
    """Return all epochs of a machine, oldest first."""
    return list(tx.scalars(select(EpochRow).where(EpochRow.machine == machine).order_by(EpochRow.epoch)))


def is_drained(row: EpochRow, since: int) -> bool:
    """Return whether everything received of an epoch is in the vault, according to a report made after ``since``."""
    return row.reported > since and row.stored >= row.received


def drained(tx: Transaction, machine: MachineId, epoch: Epoch, since: int) -> bool:
    """Return whether one epoch is drained, see ``is_drained``. Raises NotFound."""
    return is_drained(get(tx, machine, epoch), since)
