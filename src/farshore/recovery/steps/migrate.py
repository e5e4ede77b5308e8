"""What the commit of a migration does beyond that of a failover: end the machine's protection, and remove its agent.

The agent is asked under the failover's id. It is the recovered machine's agent, distinguished from the old source's by
its hardware (farshore.protection.commands). One that does not connect is awaited for a while; it removes itself
whenever it does connect. The machine's points are kept: it remains known, and its policy says for how long.
"""

from __future__ import annotations

from farshore.api_types.commands import UninstallArguments
from farshore.catalog import commands, machines, users
from farshore.catalog.database import Transaction
from farshore.catalog.tables import FailoverRow, MachineRow
from farshore.durable.jobs import Result
from farshore.durable.progress import end_progress, report_progress
from farshore.model.commands import CommandState
from farshore.model.errors import NotFound, Refused, WrongState
from farshore.model.states import MachineState
from farshore.protection.commands import ask
from farshore.protection.granting import fence
from farshore.recovery.context import RecoveryContext
from farshore.recovery.standing import rows, tell

_BY_HAND = "Remove it by hand, inside the machine: docs/operate/uninstall.md"


def end_protection(context: RecoveryContext, failover: str) -> None:
    """End the protection of a machine that was migrated, and ask its agent to remove itself. Raises WrongState if the
    machine runs somewhere else by now."""
    with context.catalog.writing() as tx:
        row, machine = rows(tx, failover)
        if machine.state == MachineState.UNPROTECTED.value:
            return
        if machine.site != row.site:
            raise WrongState(f"{machine.name} no longer runs at {row.site}.", remedy="See `farshore failover list`.")
        now = context.clock.now()
        machines.set_state(machine, MachineState.UNPROTECTED)
        machine.protect = False
        fence(tx, machine, now, "it was migrated")
        ask(tx, failover, machine.id, UninstallArguments(), now)
        message = f"{machine.name} was migrated to {row.site}. Its protection has ended; its points are kept by policy."
        tell(context, tx, row, "machine.migrated", message)


def await_agent_off(context: RecoveryContext, failover: str) -> Result:
    """Wait until the agent has removed itself, then revoke every certificate of the machine. Return what was removed
    and what remains there. Raises Refused if the agent cannot remove itself, is silent, or cannot be distinguished from
    the old source's."""
    begun = context.clock.monotonic()
    while True:
        with context.catalog.reading() as tx:
            row, machine = rows(tx, failover)
            name, subject = machine.name, machine.id
            if not machine.owner:
                raise Refused(
                    f"{name} is migrated. Its agent remains, as {row.site} does not report its hardware id.",
                    remedy=_BY_HAND,
                )
            found = _answered(tx, row, machine)
        if found is not None:
            with context.catalog.writing() as tx:
                users.revoke_certificates(tx, "machine", subject, context.clock.now())
            end_progress()
            return found
        waited = context.clock.monotonic() - begun
        if waited > context.patience.stream:
            end_progress()
            raise Refused(
                f"{name} is migrated. Its agent has not removed itself within {waited:.0f} s; it will do "
                "so when it reaches this server.",
                remedy=_BY_HAND,
            )
        report_progress(min(0.95, waited / context.patience.stream), "waiting for its agent")
        context.sleep(context.patience.poll)


def awaits_agent(tx: Transaction, row: FailoverRow, machine: MachineRow) -> bool:
    """Return whether the agent of a migrated machine was asked to remove itself, and has not answered."""
    if machine.state != MachineState.UNPROTECTED.value:
        return False
    try:
        return commands.get(tx, row.id).state == CommandState.WAITING.value
    except NotFound:
        return False


def _answered(tx: Transaction, row: FailoverRow, machine: MachineRow) -> Result | None:
    command = commands.get(tx, row.id)
    state = CommandState(command.state)
    if state is CommandState.WAITING:
        return None
    if state is CommandState.SUCCEEDED:
        return {"removed": command.result.get("removed", []), "stays": command.result.get("stays", [])}
    raise Refused(
        f"{machine.name} is migrated. Its agent did not remove itself: {command.failure.get('message', '')}",
        remedy=_BY_HAND,
    )
