"""Keep point names unique for each machine, so that a name always means the intended point."""

from __future__ import annotations

from farshore.catalog import commands, points
from farshore.catalog.database import Transaction
from farshore.catalog.tables import MachineRow
from farshore.model.commands import CommandKind
from farshore.model.errors import Refused


def check_free(tx: Transaction, machine: MachineRow, name: str) -> None:
    """Raise Refused if the machine has a point called ``name``, or will soon create one."""
    if not name:
        return
    asked = any(
        row.kind == CommandKind.POINT.value and row.arguments.get("name") == name
        for row in commands.open_commands(tx, machine.id)
    )
    if asked or points.listed(tx, machine.id, name=name, limit=1):
        raise Refused(
            f"{machine.name} {'has requested' if asked else 'has'} a point called {name!r} already.",
            remedy="Choose another name.",
        )
