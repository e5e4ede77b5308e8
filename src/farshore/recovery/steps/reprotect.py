"""Replicate a committed machine from where it runs now: its agent there is granted the stream.

The new line begins at the position that its failover chose (``MachineRow.line_epoch``). Apart from a temporary process
server (steps/process_server.py) nothing changes at the site, so there is nothing to undo here: an agent that does not
connect is awaited for a while, and gets the stream whenever it does connect.
"""

from __future__ import annotations

from dataclasses import dataclass

from farshore.catalog import epochs, failovers, machines, policies
from farshore.catalog.database import Transaction
from farshore.catalog.tables import FailoverRow, MachineRow
from farshore.durable.jobs import Result
from farshore.durable.progress import end_progress, report_progress
from farshore.model.errors import Refused, WrongState
from farshore.model.states import FailoverAction, MachineState
from farshore.protection import temporary_servers
from farshore.recovery.context import RecoveryContext, failover_id
from farshore.recovery.standing import hardware_id, rows, site_of, tell
from farshore.recovery.steps.clearance import check_action
from farshore.sites.port import Condition

_GRANTED = frozenset({MachineState.RESYNC, MachineState.PROTECTED})


def grant_stream(context: RecoveryContext, failover: str) -> int:
    """Return the newest epoch before. Raises WrongState if the machine no longer belongs to the failover, or does not
    run."""
    seen = _look(context, failover)
    with context.catalog.writing() as tx:
        row, machine = _check(tx, failover, seen)
        server = temporary_servers.of_failover(tx, failover)
        if server is not None:
            temporary_servers.turn_to(tx, server, machine, context.clock.now())
        if MachineState(machine.state) in _GRANTED:
            return machine.line_after
        owner = seen.owner
        machines.set_state(machine, MachineState.RESYNC)
        machine.owner, machine.protect = owner, True
        policies.turn_away(tx, machine)
        tell(context, tx, row, "failover.reprotected", f"{machine.name} will be replicated from {row.site}.")
        return machine.line_after


def check_reprotectable(context: RecoveryContext, failover: str) -> None:
    """Raise what ``grant_stream`` raises where it would now. Changes nothing."""
    seen = _look(context, failover)
    with context.catalog.reading() as tx:
        _check(tx, failover, seen)


def await_stream(context: RecoveryContext, failover: str, before: int) -> Result:
    """Wait until the agent at the site has been granted an epoch above ``before``. Raises Refused if it does not ask in
    time, WrongState if the machine's state changed meanwhile."""
    begun = context.clock.monotonic()
    while True:
        with context.catalog.reading() as tx:
            row, machine = rows(tx, failover)
            found = _granted(tx, machine, before)
            state, name, site = MachineState(machine.state), machine.name, row.site
        if found is not None:
            end_progress()
            return {"failover": failover, **found}
        if state not in _GRANTED:
            raise WrongState(f"{name} is {state.value} now.", remedy="Check it: farshore machine show")
        waited = context.clock.monotonic() - begun
        if waited > context.patience.stream:
            raise Refused(
                f"The agent of {name} at {site} has not asked for its stream within {waited:.0f} s.",
                remedy=f"Check whether it reaches this server: farshore failover console {failover}. It gets the "
                "stream as soon as it asks.",
            )
        report_progress(min(0.95, waited / context.patience.stream), f"waiting for the agent at {site}")
        context.sleep(context.patience.poll)


@dataclass(frozen=True)
class _Seen:
    """The machine as its site has it; ``owner``: its hardware id."""

    condition: Condition
    owner: str


def _look(context: RecoveryContext, failover: str) -> _Seen:
    site = site_of(context, failover)
    return _Seen(site.status(failover_id(failover)).condition, hardware_id(site, failover))


def _check(tx: Transaction, failover: str, seen: _Seen) -> tuple[FailoverRow, MachineRow]:
    check_action(tx, failover, FailoverAction.REPROTECT)
    row, machine = rows(tx, failover)
    if failovers.migrates(row):
        raise WrongState(
            f"{machine.name} was migrated to {row.site}: its agent was removed there.",
            remedy="To protect it there, add it as a new machine: farshore machine add",
        )
    _check_place(row, machine, seen.owner)
    if MachineState(machine.state) not in _GRANTED and seen.condition is not Condition.RUNNING:
        raise WrongState(
            f"The recovered machine of {machine.name} does not run: it is {seen.condition.value}.",
            remedy=f"Start it: farshore failover start {failover}",
        )
    return row, machine


def _check_place(row: FailoverRow, machine: MachineRow, owner: str) -> None:
    if machine.site != row.site:
        where = machine.site or "where it was enrolled"
        raise WrongState(
            f"{machine.name} runs {'at ' if machine.site else ''}{where}, not at {row.site}.",
            remedy="See `farshore failover list`.",
        )
    if not owner:
        raise Refused(
            f"The site {row.site} does not report the machine's hardware id, so its agent cannot be "
            "distinguished from the old source.",
            remedy="Protect the recovered machine as a new one: farshore machine add",
        )


def _granted(tx: Transaction, machine: MachineRow, before: int) -> Result | None:
    newest = epochs.newest(tx, machine.id)
    if newest is None or newest.epoch <= before:
        return None
    return {"epoch": newest.epoch, "kind": newest.kind, "parent": f"{newest.parent_epoch}:{newest.parent_sequence}"}
