"""Commands for agents: typed requests, offered to the one run of the agent that may carry them out, and their results.

A command is offered until its result is recorded, so an interrupted delivery is repeated; the agent carries out each
command once (farshore.mobility.commands). A run with an older epoch is offered nothing.
"""

from __future__ import annotations

from pydantic import BaseModel

from farshore.api_types.commands import (
    ARGUMENTS,
    MOST_COMMANDS,
    Arguments,
    Command,
    CommandResult,
    Commands,
    CommandStanding,
)
from farshore.catalog import commands, machines, users
from farshore.catalog.database import Transaction
from farshore.catalog.machines import CommandedMachine
from farshore.catalog.tables import CommandRow, MachineRow
from farshore.model.commands import CommandKind, CommandState
from farshore.model.errors import Fenced, Malformed, NotFound
from farshore.model.states import FORGETTABLE, MachineState
from farshore.protection.granting import ELSEWHERE

_KINDS = {arguments: kind for kind, arguments in ARGUMENTS.items()}


def ask(tx: Transaction, command: str, machine: str, arguments: Arguments, now: int) -> None:
    """Request something from a machine's agent, under an id of the caller's. Repeating an id requests nothing new."""
    kind = _KINDS[type(arguments)]
    row = CommandRow(
        id=command, machine=machine, kind=kind.value, arguments=_plain(arguments, exclude_none=True), created=now
    )
    commands.ask(tx, row)


def offered(
    tx: Transaction, machine: MachineRow | CommandedMachine, run: str, epoch: int, hardware: str = ""
) -> Commands:
    """Return the machine's open commands for its agent's ``run``, which holds ``epoch`` (0: none yet) and runs on the
    ``hardware`` with this id ("": not reported). Raises Fenced for a run that another one has replaced."""
    if epoch and run != machine.run:
        raise Fenced(
            f"Another run of {machine.name}'s agent has replaced this one.",
            remedy="Stop the agent that should not run, or the clone of the machine.",
        )
    # At a site, another run is either the old source, which has restarted, or an earlier recovered machine that has the
    # stream.
    elsewhere = bool(machine.site) and run != machine.run
    if machine.site and MachineState(machine.state) in FORGETTABLE:
        # It was migrated. The last holder of the stream is the old source: only the hardware distinguishes them.
        elsewhere = not hardware or hardware != machine.owner
    rows = [] if elsewhere else commands.offers(tx, machine.id, MOST_COMMANDS)
    obeys, goes = may_obey(machine), MachineState(machine.state) in FORGETTABLE
    rows = [row for row in rows if (goes if row.kind == CommandKind.UNINSTALL.value else obeys)]
    found = [Command(id=row.id, kind=row.kind, arguments=row.arguments) for row in rows]
    return Commands(commands=found)


def may_obey(machine: MachineRow | CommandedMachine) -> bool:
    """Return whether the machine's agent may do anything now."""
    state = MachineState(machine.state)
    return machine.protect and state not in ELSEWHERE and state is not MachineState.UNPROTECTED


def answer(tx: Transaction, machine: str, command: str, result: CommandResult, now: int) -> CommandStanding:
    """Record a result. A repeated or late result changes nothing. Raises NotFound for a command of another machine,
    Malformed for a payload of another kind."""
    row = commands.get(tx, command)
    if row.machine != machine:
        raise NotFound(f"There is no command {command}.", remedy="Request it again.")
    if row.state == CommandState.WAITING.value:
        if result.payload is None:
            assert result.failure is not None
            commands.fail(tx, row, now, _plain(result.failure))
        elif result.payload.kind != row.kind:
            raise Malformed(
                f"Command {command} is of kind {row.kind}, but its result is of kind {result.payload.kind}.",
                remedy="Upgrade the agent: farshore machine upgrade",
            )
        else:
            commands.succeed(tx, row, now, result.payload.model_dump(mode="json", exclude={"kind"}))
            if row.kind == CommandKind.UNINSTALL.value:
                _shut_out_if_migrated(tx, machine, now)
    return CommandStanding(id=row.id, state=CommandState(row.state))


def _shut_out_if_migrated(tx: Transaction, machine: str, now: int) -> None:
    """Revoke the certificates of a machine that was migrated, however late its agent was removed. (A machine that is
    not migrated is deleted by the job that asked.)"""
    found = machines.get(tx, machine)
    if found.site and MachineState(found.state) in FORGETTABLE:
        users.revoke_certificates(tx, "machine", machine, now)


def _plain(body: BaseModel, *, exclude_none: bool = False) -> dict[str, object]:
    return body.model_dump(mode="json", exclude_none=exclude_none)
