"""Queries over commands for agents. Opening or closing a command here wakes the machine's stream of commands.

That happens at the commit, within this process (``Catalog.listen``); servers in other processes find it at their next
look.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from sqlalchemy import bindparam, delete, select

from farshore.catalog.database import Transaction, say
from farshore.catalog.tables import CommandRow, JsonObject
from farshore.model.commands import CommandKind, CommandState, check_command_transition
from farshore.model.errors import NotFound
from farshore.model.identifiers import MachineId

COMMANDS = "commands"
"""The topic for ``Catalog.listen``; the subjects are machine ids."""
_WAITING = CommandState.WAITING.value
_OFFERS = (
    select(CommandRow.id, CommandRow.kind, CommandRow.arguments)
    .where(CommandRow.machine == bindparam("machine"), CommandRow.state == _WAITING)
    .order_by(CommandRow.created, CommandRow.id)
    .limit(bindparam("most"))
)


def ask(tx: Transaction, command: CommandRow) -> None:
    """Add a command for an agent. An id that exists already adds nothing."""
    if tx.get(CommandRow, command.id) is None:
        tx.add(command)
        tx.flush()
        say(tx, COMMANDS, command.machine)


class Offer(NamedTuple):
    """The part of an open command that is sent to the agent."""

    id: str
    kind: str
    arguments: JsonObject


def open_commands(tx: Transaction, machine: str) -> list[CommandRow]:
    """Return a machine's commands without a result, oldest first."""
    waiting = select(CommandRow).where(CommandRow.machine == machine, CommandRow.state == _WAITING)
    return list(tx.scalars(waiting.order_by(CommandRow.created, CommandRow.id)))


def offers(tx: Transaction, machine: str, most: int) -> list[Offer]:
    """Return at most ``most`` open commands, with only the fields that the agent needs."""
    return [Offer._make(row) for row in tx.execute(_OFFERS, {"machine": machine, "most": most})]


def waiting_of_kind(tx: Transaction, kind: CommandKind) -> list[CommandRow]:
    """Return the open commands of one kind, of all machines."""
    return list(tx.scalars(select(CommandRow).where(CommandRow.kind == kind.value, CommandRow.state == _WAITING)))


def open_ids(tx: Transaction) -> dict[str, list[str]]:
    """Return the ids of the open commands of all machines."""
    waiting = select(CommandRow.machine, CommandRow.id).where(CommandRow.state == _WAITING)
    found: dict[str, list[str]] = {}
    for machine, command in tx.execute(waiting.order_by(CommandRow.created, CommandRow.id)):
        found.setdefault(machine, []).append(command)
    return found


def get(tx: Transaction, command_id: str) -> CommandRow:
    """Return one command. Raises NotFound."""
    row = tx.get(CommandRow, command_id)
    if row is None:
        raise NotFound(f"There is no command {command_id}.", remedy="Repeat the request.")
    return row


def succeed(tx: Transaction, row: CommandRow, now: int, payload: dict[str, object]) -> None:
    """Record the agent's result. Raises WrongState for a command that is closed."""
    _close(tx, row, CommandState.SUCCEEDED, now)
    row.result = payload


def fail(tx: Transaction, row: CommandRow, now: int, failure: dict[str, object]) -> None:
    """Record why the agent could not do it. Raises WrongState for a command that is closed."""
    _close(tx, row, CommandState.FAILED, now)
    row.failure = failure


def withdraw(tx: Transaction, command_id: str, now: int) -> None:
    """Close a command for which nobody waits any longer, if it exists and the agent has not answered it."""
    row = tx.get(CommandRow, command_id)
    if row is not None:
        _withdraw(tx, [row], now, "nobody waits for it any more")


def abandon(tx: Transaction, machine: MachineId, now: int, reason: str) -> None:
    """Withdraw all open commands of a machine, because it is gone or fenced. Its stream of commands is checked again in
    any case."""
    _withdraw(tx, open_commands(tx, machine), now, reason)
    say(tx, COMMANDS, machine)


def prune(tx: Transaction, before: int) -> None:
    """Delete commands that were closed before then (ns)."""
    tx.execute(delete(CommandRow).where(CommandRow.state != _WAITING, CommandRow.closed < before))


def _withdraw(tx: Transaction, rows: Iterable[CommandRow], now: int, reason: str) -> None:
    for row in rows:
        if row.state == _WAITING:
            _close(tx, row, CommandState.WITHDRAWN, now)
            row.failure = {"message": reason}


def _close(tx: Transaction, row: CommandRow, state: CommandState, now: int) -> None:
    check_command_transition(CommandState(row.state), state)
    row.state, row.closed = state.value, now
    say(tx, COMMANDS, row.machine)
