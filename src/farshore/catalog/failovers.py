"""Queries over failovers and test failovers."""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import select

from farshore.api_types.failovers import FailoverKind
from farshore.catalog.database import Transaction
from farshore.catalog.tables import FailoverRow
from farshore.model.errors import NotFound
from farshore.model.states import PRESENT, UP, Direction, FailoverState, check_failover_transition


def add(tx: Transaction, row: FailoverRow) -> None:
    """Add a requested failover. Adding one with the same id again has no effect."""
    if tx.get(FailoverRow, row.id) is None:
        tx.add(row)
        tx.flush()


def page(tx: Transaction, machine: str | None = None, *, limit: int, before: str = "") -> list[FailoverRow]:
    """Return failovers, newest first; of one machine or of all. ``before``: only those older than this one.

    Raises NotFound if there is no failover ``before``."""
    wanted = select(FailoverRow).order_by(FailoverRow.requested.desc(), FailoverRow.id.desc()).limit(limit)
    if machine is not None:
        wanted = wanted.where(FailoverRow.machine == machine)
    if before:
        last = get(tx, before)
        older = FailoverRow.requested < last.requested
        wanted = wanted.where(older | ((FailoverRow.requested == last.requested) & (FailoverRow.id < last.id)))
    return list(tx.scalars(wanted))


def in_states(tx: Transaction, states: Iterable[FailoverState], machine: str | None = None) -> list[FailoverRow]:
    """Return all failovers in these states, oldest first; of one machine or of all."""
    wanted = select(FailoverRow).where(FailoverRow.state.in_([state.value for state in states]))
    if machine is not None:
        wanted = wanted.where(FailoverRow.machine == machine)
    return list(tx.scalars(wanted.order_by(FailoverRow.requested, FailoverRow.id)))


def elsewhere(tx: Transaction, machine: str) -> list[FailoverRow]:
    """Return the failovers of the machine that run, or may run, as production at a recovery site."""
    found = in_states(tx, PRESENT, machine)
    return [row for row in found if row.kind != FailoverKind.TEST.value and not has_come_home(row)]


def kept_up(tx: Transaction) -> list[FailoverRow]:
    """Return the failovers whose recovered machines we keep running."""
    return [row for row in in_states(tx, UP) if not has_come_home(row)]


def kept_off(tx: Transaction, site: str) -> set[str]:
    """Return the failovers whose machines, at this site, were stopped by a user or to be replaced."""
    found = [row for row in in_states(tx, UP | {FailoverState.SUPERSEDED}) if row.site == site]
    replaced = FailoverState.SUPERSEDED.value
    return {row.id for row in found if not has_come_home(row) and (row.stopped or row.state == replaced)}


def has_come_home(row: FailoverRow) -> bool:
    """Return whether the failover's machine has come home permanently, and is no longer a recovered machine."""
    return row.direction == Direction.HOME.value and row.state == FailoverState.COMMITTED.value


def migrates(row: FailoverRow) -> bool:
    """Return whether the failover is a migration: its commit ends the protection and removes the agent."""
    return bool((row.request or {}).get("migrate"))


def asked_for_by(tx: Transaction, parent: str) -> list[FailoverRow]:
    """Return the failovers that a job has requested and whose own jobs have not begun."""
    wanted = select(FailoverRow).where(FailoverRow.parent == parent)
    return list(tx.scalars(wanted.where(FailoverRow.state == FailoverState.REQUESTED.value)))


def get(tx: Transaction, failover: str) -> FailoverRow:
    """Return one failover. Raises NotFound."""
    row = tx.get(FailoverRow, failover)
    if row is None:
        raise NotFound(f"There is no failover {failover}.", remedy="See `farshore failover list`.")
    return row


def set_state(row: FailoverRow, state: FailoverState) -> None:
    """Move a failover on. Raises WrongState if the table of transitions does not allow it."""
    check_failover_transition(FailoverState(row.state), state)
    row.state = state.value


def delete(tx: Transaction, row: FailoverRow) -> None:
    """Delete a failover."""
    tx.delete(row)
