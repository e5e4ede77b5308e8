"""How a job waits for what an agent makes of a command that the job asked for under its own id."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from farshore.catalog import commands, machines
from farshore.catalog.database import Catalog, Transaction
from farshore.catalog.tables import CommandRow, MachineRow
from farshore.model.commands import CommandState
from farshore.model.errors import Refused
from farshore.model.ports import Clock

Look = Callable[[MachineRow], bool]
POLL = 0.1


def await_result(
    catalog: Catalog,
    clock: Clock,
    command: str,
    *,
    patience: float,
    what_failed: str,
    remedy: str,
    alive: Look = lambda _machine: False,
) -> dict[str, Any] | None:
    """The result's payload; None once ``patience`` seconds went by without one, and the command is withdrawn then.

    The patience begins anew each time that ``alive``, asked of the machine's row, says so. Seconds in which this server
    was down do not count. Raises Refused where the agent failed, or the command was withdrawn: ``what_failed`` begins
    the message, ``remedy`` says what to do where the agent did not.
    """
    give_up = clock.monotonic() + patience
    while clock.monotonic() < give_up:
        with catalog.reading() as tx:
            row = commands.get(tx, command)
            if row.state != CommandState.WAITING.value:
                return _outcome(row, what_failed, remedy)
            if alive(machines.get(tx, row.machine)):
                give_up = clock.monotonic() + patience
        time.sleep(POLL)

    def withdrawn(tx: Transaction) -> CommandRow:
        commands.withdraw(tx, command, clock.now())
        return commands.get(tx, command)

    row = catalog.write(withdrawn)
    if row.state == CommandState.WITHDRAWN.value:
        return None
    return _outcome(row, what_failed, remedy)  # it came in the last moment


def _outcome(row: CommandRow, what_failed: str, remedy: str) -> dict[str, Any]:
    if row.state == CommandState.SUCCEEDED.value:
        return row.result
    raise Refused(f"{what_failed}: {row.failure.get('message', '')}", remedy=row.failure.get("remedy") or remedy)
