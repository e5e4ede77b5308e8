"""Prints what an adopted installation recovered from its vault, and how old each part is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from farshore.cli.output import ago, coloured, plain
from farshore.model.errors import NotFound

REPORT_FILE = "adoption.json"


def read(home: Path) -> dict[str, Any]:
    """Read the report that the adoption left in the installation's folder. Raises NotFound."""
    try:
        found: dict[str, Any] = json.loads((home / REPORT_FILE).read_text())
    except FileNotFoundError as error:
        raise NotFound(f"There is no {home / REPORT_FILE}.", remedy="Run the command again.") from error
    return found


def show(home: Path, console: Console) -> None:
    """Print the report of an adoption. Raises NotFound."""
    report = read(home)
    records = _table("Kept in vault", "Number", "Last change", "")
    for one in report["records"]:
        changed = ago(one["written"]) if one["written"] else coloured("not kept: defaults used", "yellow")
        of_backup = f"of the backup {one['trouble']}".strip() if one.get("backup") else ""
        records.add_row(one["kind"], str(one["count"]), changed, plain(of_backup))
    console.print(records)
    machines = _table("Machine", "State", "Policy", "Newest state", "Points", "")
    for one in report["machines"]:
        newest = ago(one["newest"]) if one["newest"] else coloured("none", "red")
        remarks = [] if one["known"] else ["policy not known: check it"]
        remarks += [one["trouble"]] if one["trouble"] else []
        machines.add_row(
            plain(one["name"]), one["state"], plain(one["policy"]), newest, str(one["points"]), plain(" ".join(remarks))
        )
    console.print(machines)
    for line in report["failovers"]:
        console.print(coloured("Note:", "yellow", f" {line}"))


def _table(*columns: str) -> Table:
    made = Table(box=None, pad_edge=False)
    for column in columns:
        made.add_column(column, overflow="fold")
    return made
