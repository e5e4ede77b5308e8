"""May this failover be cleaned up, or committed?"""

from __future__ import annotations

from collections.abc import Callable

from farshore.catalog import machines
from farshore.model.errors import WrongState
from farshore.model.states import MachineState
from farshore.recovery.context import RecoveryContext
from farshore.recovery.standing import UNDER_WAY, Standing, is_test, others, rows, tell


def may_clean_up(context: RecoveryContext, failover: str, is_working: Callable[[str], bool]) -> None:
    """Raises WrongState for production that runs, and for a failover whose job still works (asked of its id)."""
    with context.catalog.reading() as tx:
        row, machine = rows(tx, failover)
        standing = Standing(row.state)
        if standing in UNDER_WAY and is_working(row.job):
            raise WrongState("This failover is under way.", remedy=f"Wait for it, or: farshore job cancel {row.job}")
        if not is_test(row) and standing in (Standing.RUNNING, Standing.COMMITTED):
            raise WrongState(
                f"{machine.name} runs in production on this failover.",
                remedy="Fail over to another point, or commit and fail back; then clean up.",
            )


def commit(context: RecoveryContext, failover: str) -> list[str]:
    """Make a failover final; the superseded ones, which may be removed now. Recovery points are not touched."""
    with context.catalog.writing() as tx:
        row, machine = rows(tx, failover)
        if is_test(row):
            raise WrongState("A test cannot be committed.", remedy="Clean it up, and run a failover.")
        if row.state != Standing.COMMITTED.value:
            if row.state != Standing.RUNNING.value:
                raise WrongState(f"This failover is {row.state}.", remedy="Commit the one that runs.")
            machines.set_state(machine, MachineState.COMMITTED)
            row.state = Standing.COMMITTED.value
            tell(context, tx, row, "failover.committed", f"{machine.name} stays at {row.site}.")
        return [other.id for other in others(tx, row) if other.state == Standing.SUPERSEDED.value]
