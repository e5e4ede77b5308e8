"""Queries over master targets and their errands. An errand exists from the request of a failback's job until the job
has its result."""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy import func, select

from farshore.catalog.database import Transaction
from farshore.catalog.delegated import DelegatedState
from farshore.catalog.tables import ErrandRow, FailoverRow, MasterTargetRow
from farshore.model.errors import NotFound, WrongState
from farshore.model.states import UNDER_WAY

OWN_NAME = "master-target"


def every(tx: Transaction) -> list[MasterTargetRow]:
    """Return all master targets, by name."""
    return list(tx.scalars(select(MasterTargetRow).order_by(MasterTargetRow.name)))


def get(tx: Transaction, wanted: str) -> MasterTargetRow:
    """Return one master target by its id, otherwise by its name. Raises NotFound."""
    row = tx.get(MasterTargetRow, wanted) or tx.scalar(
        select(MasterTargetRow).where(MasterTargetRow.name == wanted).limit(1)
    )
    if row is None:
        raise NotFound(f"There is no master target {wanted}.", remedy="See `farshore master-target list`.")
    return row


def own(tx: Transaction) -> MasterTargetRow | None:
    """Return the master target that ``farshore up`` runs, or None before it has registered."""
    return tx.scalar(select(MasterTargetRow).where(MasterTargetRow.own).limit(1))


def invite(tx: Transaction, row: MasterTargetRow) -> None:
    """Add a master target that has not enrolled yet. Raises WrongState if its name is taken."""
    if _taken(tx, row.name):
        raise WrongState(f"There is a master target {row.name!r} already.", remedy="Choose another name, or remove it.")
    tx.add(row)
    tx.flush()


def register(tx: Transaction, master_target: str, version: str, now: int) -> MasterTargetRow:
    """Record that a master target has started. One that was not invited is the one that ``farshore up`` runs."""
    row = tx.get(MasterTargetRow, master_target)
    if row is None:
        for former in tx.scalars(select(MasterTargetRow).where(MasterTargetRow.own)):
            tx.delete(former)
        tx.flush()
        row = MasterTargetRow(id=master_target, name=_free_name(tx), own=True)
        tx.add(row)
    row.version, row.last_seen, row.registered, row.revoked = version, now, row.registered or now, False
    tx.flush()
    return row


def delete(tx: Transaction, row: MasterTargetRow) -> None:
    """Delete one, with its errands."""
    for errand in tx.scalars(select(ErrandRow).where(ErrandRow.master_target == row.id)):
        tx.delete(errand)
    tx.delete(row)
    tx.flush()


def errand(tx: Transaction, wanted: str) -> ErrandRow | None:
    """Return one errand by its id."""
    return tx.get(ErrandRow, wanted)


def errand_of(tx: Transaction, failover: str) -> ErrandRow | None:
    """Return the errand of a failback."""
    return tx.scalar(select(ErrandRow).where(ErrandRow.failover == failover))


def drop_errand(tx: Transaction, failover: str) -> None:
    """Drop the errand of a failback that no longer needs it. The master target at work learns of it."""
    row = errand_of(tx, failover)
    if row is not None:
        tx.delete(row)
        tx.flush()


def open_of(tx: Transaction, master_target: str) -> list[str]:
    """Return the ids of the errands that a master target has to begin or continue, oldest first."""
    wanted = select(ErrandRow.id).where(
        ErrandRow.master_target == master_target, ErrandRow.state != DelegatedState.ENDED.value
    )
    return list(tx.scalars(wanted.order_by(ErrandRow.created, ErrandRow.id)))


def counts(tx: Transaction) -> dict[str, int]:
    """Return the number of errands of each master target."""
    wanted = select(ErrandRow.master_target, func.count()).where(ErrandRow.state != DelegatedState.ENDED.value)
    return {row[0]: row[1] for row in tx.execute(wanted.group_by(ErrandRow.master_target))}


def has_errand_for(tx: Transaction, master_target: str, machine: str) -> bool:
    """Return whether a master target has an errand for a machine."""
    wanted = select(func.count()).where(
        ErrandRow.master_target == master_target,
        ErrandRow.machine == machine,
        ErrandRow.state != DelegatedState.ENDED.value,
    )
    return bool(tx.scalar(wanted))


def not_needed(tx: Transaction, held: Collection[str]) -> list[str]:
    """Return those of these failbacks that are not running, so that their records are not needed."""
    states = [state.value for state in UNDER_WAY]
    wanted = select(FailoverRow.id).where(FailoverRow.id.in_(held), FailoverRow.state.in_(states))
    return sorted(set(held) - set(tx.scalars(wanted)) - set(tx.scalars(select(ErrandRow.failover))))


def _free_name(tx: Transaction) -> str:
    name, number = OWN_NAME, 2
    while _taken(tx, name):
        name, number = f"{OWN_NAME}-{number}", number + 1
    return name


def _taken(tx: Transaction, name: str) -> bool:
    return bool(tx.scalar(select(func.count()).select_from(MasterTargetRow).where(MasterTargetRow.name == name)))
