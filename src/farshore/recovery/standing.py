"""How failovers stand, as the catalog keeps it: their states, and what may be done in which.

Relies on the catalog's write transactions: of two requests about one machine, the second sees what the first did.
"""

from __future__ import annotations

import enum
from typing import Any

from farshore.api_types.events import Severity
from farshore.api_types.failovers import FailoverKind
from farshore.catalog import events, failovers, machines
from farshore.catalog.database import Transaction
from farshore.catalog.tables import FailoverRow, MachineRow
from farshore.model.states import MachineState
from farshore.recovery.context import RecoveryContext


class Standing(enum.Enum):
    """The state of a failover."""

    REQUESTED = "requested"
    WORKING = "working"
    RUNNING = "running"
    FAILED = "failed"
    """Nothing of it is left but its record."""
    SUPERSEDED = "superseded"
    """Another point of the machine was brought up instead; its overlay is kept until the commit."""
    COMMITTED = "committed"
    CLEANED_UP = "cleaned-up"


UNDER_WAY = frozenset({Standing.REQUESTED, Standing.WORKING})
BEFORE = "machine_state_before"
"""Key in a failover's request: where the machine goes back to if the failover fails."""


def is_test(row: FailoverRow) -> bool:
    """Whether it runs beside production."""
    return row.kind == FailoverKind.TEST.value


def rows(tx: Transaction, failover: str) -> tuple[FailoverRow, MachineRow]:
    """A failover and its machine. Raises NotFound."""
    row = failovers.get(tx, failover)
    return row, machines.get(tx, row.machine)


def others(tx: Transaction, row: FailoverRow) -> list[FailoverRow]:
    """The other failovers of the machine that are no tests."""
    return [other for other in failovers.every(tx, row.machine) if other.id != row.id and not is_test(other)]


def give_machine_back(row: FailoverRow, machine: MachineRow) -> None:
    """After a failover that failed: the machine goes back to the state that it was in."""
    before = (row.request or {}).get(BEFORE)
    if before is not None and machine.state == MachineState.FAILING_OVER.value:
        machines.set_state(machine, MachineState(before))


def tell(
    context: RecoveryContext,
    tx: Transaction,
    row: FailoverRow,
    kind: str,
    message: str,
    *,
    severity: Severity = Severity.INFORMATION,
    detail: dict[str, Any] | None = None,
) -> None:
    """One line in the event log about a failover."""
    events.record(
        tx,
        time=context.clock.now(),
        kind=kind,
        actor=f"job/{row.job}",
        subject=f"machine/{row.machine}",
        message=message,
        severity=severity,
        detail={"failover": row.id, **(detail or {})},
    )
