"""May this failover be done? Takes its turn in the catalog: one failover of a machine at a time."""

from __future__ import annotations

from farshore.catalog import failovers
from farshore.model.errors import Refused, WrongState
from farshore.model.states import FailoverState, MachineState
from farshore.recovery.context import RecoveryContext
from farshore.recovery.standing import is_test, others, rows, take_turn

_SOURCES = frozenset({MachineState.PROTECTED, MachineState.RESYNC, MachineState.FAILED_OVER})
"""States that a machine may be failed over from; from FAILED_OVER to change the point."""


def check(context: RecoveryContext, failover: str) -> None:
    """Raises Refused or WrongState, NotFound for a site that does not exist; else the failover is under way."""
    with context.catalog.writing() as tx:
        row, machine = rows(tx, failover)
        if row.state == FailoverState.WORKING.value:
            return
        context.site(row.site)
        if any(not 0 < int(port) < 65536 or not 0 < guest < 65536 for port, guest in row.forward.items()):
            raise Refused("A forwarded port is out of range.", remedy="Use ports from 1 to 65535.")
        if not is_test(row):
            present = others(tx, row)
            busy = [other.id for other in present if other.state == FailoverState.WORKING.value]
            if busy:
                raise WrongState(
                    f"Failover {busy[0]} of {machine.name} is under way.", remedy="Wait for its job, or cancel it."
                )
            state = MachineState(machine.state)
            if state not in _SOURCES:
                raise WrongState(
                    f"{machine.name} is {state.value}.",
                    remedy="A failover starts from a machine that is protected, in resync or failed over.",
                )
            take_turn(row, state, [other.id for other in present if other.state == FailoverState.RUNNING.value])
        failovers.set_state(row, FailoverState.WORKING)
