"""Fence the source: from now on its agent may send nothing, so the newest point can no longer move."""

from __future__ import annotations

from farshore.catalog import commands, epochs, machines
from farshore.model.identifiers import MachineId
from farshore.model.states import MachineState
from farshore.recovery.context import RecoveryContext
from farshore.recovery.standing import rows, tell


def fence(context: RecoveryContext, failover: str) -> int:
    """Return the time of the fence (ns): later reports of the process server contain all data that there will ever
    be."""
    with context.catalog.writing() as tx:
        row, machine = rows(tx, failover)
        now = context.clock.now()
        if machine.state != MachineState.FAILING_OVER.value:
            machines.set_state(machine, MachineState.FAILING_OVER)
            epochs.close_open(tx, MachineId(machine.id), now, "the machine is being failed over")
            commands.abandon(tx, MachineId(machine.id), now, "the machine is being failed over")
            tell(context, tx, row, "failover.fenced", f"{machine.name} may send no more: it is being failed over.")
        return now
