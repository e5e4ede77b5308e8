"""How a benchmark shows what it found: a table for people, a last line for machines."""

from __future__ import annotations

import json
import sys
from typing import Sequence

from rich.console import Console
from rich.table import Table


def show(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], notes: str = "") -> None:
    """Print a table; the first column is text, the others are figures."""
    table = Table(title=title, title_justify="left")
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if number == 0 else "right")
    for row in rows:
        table.add_row(*row)
    console = Console(width=120 if not sys.stdout.isatty() else None)
    console.print(table)
    if notes:
        console.print(notes)


def result(benchmark: str, value: float, unit: str, target: float, peers: dict[str, float], **extra: object) -> None:
    """Print the last line."""
    fields = {"benchmark": benchmark, "value": round(value, 4), "unit": unit, "target": target, "peers": peers, **extra}
    sys.stdout.write(f"RESULT {json.dumps(fields)}\n")
    sys.stdout.flush()
