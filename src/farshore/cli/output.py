"""Output of commands: tables for people, JSON for scripts."""

from __future__ import annotations

import datetime
import json
import re
import sys
import time
from collections.abc import Sequence
from typing import Any

import typer
from pydantic import BaseModel
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from farshore.api_types.body import IsMoment
from farshore.api_types.jobs import Job
from farshore.cli.grammar import rfc3339

NANOSECONDS = 1_000_000_000

LONG = 200
"""Number of rows above which a table is printed without styling."""
WIDE = 250
"""Width for pipes and files, so that no table is cut."""

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


class PlainConsole(Console):
    """A console that prints strings literally. Names and messages come from other systems, so brackets in them are not
    markup, and control characters do not reach the terminal. Coloured text is a Text (see ``coloured``)."""

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, highlight=False, soft_wrap=True, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        """Sanitise every string that is printed, including table cells."""
        return super().render_str(plain(text), **options)


out = PlainConsole(width=None if sys.stdout.isatty() else WIDE)
err = PlainConsole(stderr=True)


def plain(text: str) -> str:
    """Replace each control character, except line breaks and tabs, by a mark."""
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)


def coloured(words: str, style: str, rest: str = "") -> Text:
    """Return ``words`` in a colour, followed by ``rest`` without one."""
    return Text.assemble((plain(words), style), plain(rest))


def print_json(value: BaseModel | Sequence[BaseModel] | object) -> None:
    """Print one JSON document on standard output."""
    typer.echo(json.dumps(as_json_value(value), indent=2))


def as_json_value(value: Any) -> Any:
    """Convert a value for ``--json``: models to objects, times to RFC 3339 with all digits, and a time of 0 to null."""
    if isinstance(value, BaseModel):
        fields = value.model_dump(mode="json")
        for name, kind in type(value).model_fields.items():
            there = getattr(value, name)
            if any(isinstance(mark, IsMoment) for mark in kind.metadata):
                fields[name] = rfc3339(there) or None
            elif _holds_models(there):
                fields[name] = as_json_value(there)
        if isinstance(value, Job) and isinstance(value.result.get("time"), int):
            fields["result"] = {**fields["result"], "time": rfc3339(value.result["time"])}
        return fields
    if isinstance(value, (list, tuple)):
        return [as_json_value(item) for item in value]
    if isinstance(value, dict):
        return {key: as_json_value(item) for key, item in value.items()}
    return value


def _holds_models(value: object) -> bool:
    if isinstance(value, dict):
        value = list(value.values())
    return isinstance(value, BaseModel) or (
        isinstance(value, list) and any(isinstance(one, BaseModel) for one in value)
    )


def print_done(sentence: str, as_json: bool, **fields: object) -> None:
    """Print what was done: a sentence, or ``fields`` as one JSON object."""
    if as_json:
        print_json(fields)
    else:
        out.print(sentence)


def print_table(
    columns: Sequence[str], rows: Sequence[Sequence[str | Text]], empty: str, to: PlainConsole = out
) -> None:
    """Print a table, or the sentence ``empty`` if there are no rows."""
    if not rows:
        to.print(empty)
    elif len(rows) > LONG and all(isinstance(cell, str) and "\n" not in cell for row in rows for cell in row):
        _print_long(columns, [[plain(str(cell)) for cell in row] for row in rows], to)
    else:
        to.print(table(columns, rows))


def table(columns: Sequence[str], rows: Sequence[Sequence[str | Text]]) -> Table:
    """Build a table."""
    made = Table(*columns, box=None, pad_edge=False, header_style="bold")
    for row in rows:
        made.add_row(*row)
    return made


def _print_long(columns: Sequence[str], rows: Sequence[Sequence[str]], to: PlainConsole) -> None:
    """Print a long table in the same style without folding cells, as rich takes about 1 ms a row."""
    widths = [max(cell_len(row[place]) for row in (columns, *rows)) for place in range(len(columns))]

    def line(row: Sequence[str]) -> str:
        cells = zip(row, widths, strict=True)
        return "  ".join(cell + " " * (width - cell_len(cell)) for cell, width in cells).rstrip()

    to.print(Text(line(columns), style="bold"))
    to.file.write("\n".join(line(row) for row in rows) + "\n")


def print_fields(fields: Sequence[tuple[str, str | Text]]) -> None:
    """Print names and values, one a line, leaving out fields without a value."""
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="bold")
    table.add_column()
    for name, value in fields:
        if value:
            table.add_row(name, value)
    out.print(table)


def moment(nanoseconds: int) -> str:
    """Format a time in ns as ISO 8601 in UTC with milliseconds, or a dash for 0."""
    if not nanoseconds:
        return "-"
    seconds, rest = divmod(nanoseconds, NANOSECONDS)
    stamp = datetime.datetime.fromtimestamp(seconds, datetime.UTC)
    return f"{stamp:%Y-%m-%dT%H:%M:%S}.{rest // 1_000_000:03d}Z"


def ago(nanoseconds: int) -> str:
    """Format the time since then, or a dash for 0."""
    return "-" if not nanoseconds else f"{duration((time.time_ns() - nanoseconds) / NANOSECONDS)} ago"


def duration(seconds: float) -> str:
    """Format seconds for people."""
    if seconds < 0:
        seconds = 0
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, left = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {left} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"


def size(count: float) -> str:
    """Format a number of bytes with a binary unit."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(count) < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def rate(bytes_a_second: int) -> str:
    """Format a bandwidth limit; 0 means unlimited."""
    return f"{bytes_a_second * 8 / 1e6:.1f} Mbit/s" if bytes_a_second else "unlimited"
