"""May this failover be done? Takes its turn in the catalog: one failover of a machine at a time."""

from __future__ import annotations

from farshore.model.errors import Refused, WrongState
from farshore.model.states import MachineState
from farshore.recovery.context import RecoveryContext
from farshore.recovery.standing import BEFORE, Standing, is_test, others, rows

_SOURCES = frozenset({MachineState.PROTECTED, MachineState.RESYNC, MachineState.FAILED_OVER})
"""States that a machine may be failed over from; from FAILED_OVER to change the point."""


def check(context: RecoveryContext, failover: str) -> None:
    """Raises Refused or WrongState, NotFound for a site that does not exist; else the failover is under way."""
    with context.catalog.writing() as tx:
        row, machine = rows(tx, failover)
        if row.state == Standing.WORKING.value:
            return
        context.site(row.site)
        if any(not 0 < int(port) < 65536 or not 0 < guest < 65536 for port, guest in row.forward.items()):
            raise Refused("A forwarded port is out of range.", remedy="Use ports from 1 to 65535.")
        if not is_test(row):
            busy = [other.id for other in others(tx, row) if other.state == Standing.WORKING.value]
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
            row.request = {**(row.request or {}), BEFORE: state.value}
        row.state = Standing.WORKING.value
