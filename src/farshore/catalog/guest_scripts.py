"""Queries over the scripts that agents of recovered machines run as checks."""

from __future__ import annotations

from sqlalchemy import delete, exists, select

from farshore.catalog.database import Transaction
from farshore.catalog.tables import FailoverRow, GuestScriptRow
from farshore.model.commands import CommandState, check_command_transition
from farshore.model.errors import NotFound
from farshore.model.states import FailoverState

_WAITING = CommandState.WAITING.value


def add(tx: Transaction, row: GuestScriptRow) -> None:
    """Grant a run."""
    tx.add(row)
    tx.flush()


def runs_of(tx: Transaction, failover: str, place: int) -> list[GuestScriptRow]:
    """Return all runs for one check of a failover, oldest first."""
    wanted = select(GuestScriptRow).where(GuestScriptRow.failover == failover, GuestScriptRow.place == place)
    return list(tx.scalars(wanted.order_by(GuestScriptRow.created, GuestScriptRow.id)))


def granted(tx: Transaction, machine: str, hardware: str, most: int) -> list[GuestScriptRow]:
    """Return what the machine's agent on that hardware may run now: only for a failover whose machine is up."""
    up = exists().where(
        FailoverRow.id == GuestScriptRow.failover,
        FailoverRow.machine == GuestScriptRow.machine,
        FailoverRow.state == FailoverState.RUNNING.value,
        FailoverRow.stopped.is_(False),
    )
    wanted = select(GuestScriptRow).where(
        GuestScriptRow.machine == machine,
        GuestScriptRow.hardware == hardware,
        GuestScriptRow.state == _WAITING,
        up,
    )
    return list(tx.scalars(wanted.order_by(GuestScriptRow.created, GuestScriptRow.id).limit(most)))


def failovers_waiting(tx: Transaction) -> set[str]:
    """Return the failovers whose machines have something to run."""
    return set(tx.scalars(select(GuestScriptRow.failover).where(GuestScriptRow.state == _WAITING)))


def get(tx: Transaction, script: str) -> GuestScriptRow:
    """Return one run. Raises NotFound."""
    row = tx.get(GuestScriptRow, script)
    if row is None:
        raise NotFound(f"There is no script {script}.", remedy="Request the check again: farshore failover test")
    return row


def close(row: GuestScriptRow, state: CommandState, now: int) -> None:
    """End a run. Raises WrongState for one that has ended."""
    check_command_transition(CommandState(row.state), state)
    row.state, row.closed = state.value, now


def withdraw(tx: Transaction, failover: str, place: int, now: int) -> None:
    """End the waiting runs of a check for which nobody waits any longer."""
    for row in runs_of(tx, failover, place):
        if row.state == _WAITING:
            close(row, CommandState.WITHDRAWN, now)


def prune(tx: Transaction, before: int) -> None:
    """Delete runs that ended before then (ns): their results are in the failovers' evidence."""
    tx.execute(delete(GuestScriptRow).where(GuestScriptRow.state != _WAITING, GuestScriptRow.closed < before))
