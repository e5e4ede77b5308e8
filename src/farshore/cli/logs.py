"""``farshore logs``: the log of an installation that runs in the background."""

from __future__ import annotations

import enum
import json
import time
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, TextIO

import typer

from farshore.cli.connection import home
from farshore.cli.output import plain
from farshore.cli.supervisor import PROGRAM as SUPERVISOR
from farshore.cli.supervisor import Installation
from farshore.model.errors import NotFound

POLL_SECONDS = 0.3


class Program(enum.Enum):
    """The programs that write to the log."""

    CONFIGURATION_SERVER = "configuration-server"
    PROCESS_SERVER = "process-server"
    MASTER_TARGET = "master-target"
    SUPERVISOR = SUPERVISOR


def logs(
    program: Annotated[
        Program | None, typer.Argument(help="Show only this program's lines.", show_default=False)
    ] = None,
    state: Annotated[
        Path | None, typer.Option("--home", help="Folder of the installation. Overrides FARSHORE_HOME.")
    ] = None,
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, help="Show the last N lines first.")] = 100,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Keep printing new lines until Ctrl-C.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print each line as a JSON object.")] = False,
) -> None:
    """Show the log of the installation on this machine that `farshore up --detach` started.

    For an installation under systemd, use `journalctl -u farshore`.

    Example: `farshore logs process-server --follow`
    """
    file = Installation((state or home()).absolute()).log
    try:
        opened = file.open(errors="replace")
    except FileNotFoundError as error:
        raise NotFound(
            f"There is no log {file}: no installation was started in the background there.",
            remedy="Give the installation's folder with --home. Under systemd, use journalctl -u farshore.",
        ) from error
    with opened:
        chosen = of_program(_complete(opened), program)
        for line in deque(chosen, maxlen=lines):
            _print(line, as_json)
        if follow:
            for line in of_program(_coming(opened), program):
                _print(line, as_json)


def of_program(lines: Iterable[str], program: Program | None) -> Iterator[str]:
    """Yield the lines of one program, including lines that continue them (a traceback); all lines for None."""
    mine = program is None
    for line in lines:
        words = line.split(" ", 3)
        if len(words) == 4 and words[0].endswith("Z") and words[0][:1].isdigit():
            mine = program is None or words[2] == program.value
        if mine:
            yield line


def _complete(file: TextIO) -> Iterator[str]:
    while line := file.readline():
        yield line.rstrip("\n")


def _coming(file: TextIO) -> Iterator[str]:
    """Yield complete lines as they are written, forever."""
    begun = ""
    while True:
        begun += file.readline()
        if begun.endswith("\n"):
            yield begun.rstrip("\n")
            begun = ""
        else:
            time.sleep(POLL_SECONDS)


def _print(line: str, as_json: bool) -> None:
    typer.echo(_as_json(line) if as_json else plain(line))


def _as_json(line: str) -> str:
    words = line.split(" ", 3)
    if len(words) == 4 and words[0].endswith("Z"):
        return json.dumps({"time": words[0], "level": words[1], "program": words[2], "message": words[3]})
    return json.dumps({"message": line})
