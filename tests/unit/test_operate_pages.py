"""The commands of docs/operate exist, with these options: each is parsed as the command line parses it."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest
import typer

from farshore.cli.main import commands
from farshore.master_target.main import _parser as master_target_parser
from farshore.mobility.main import _parser

COMMAND: Any = typer.main.get_command(commands)
PAGES = sorted((Path(__file__).parents[2] / "docs" / "operate").glob("*.md"))


def typed(page: Path) -> list[str]:
    """The lines of a page's blocks of commands."""
    found, inside = [], False
    for line in page.read_text().splitlines():
        if line.startswith("```"):
            inside = line == "```sh"
        elif (inside and line) or line.startswith("    farshore"):
            found.append(line.strip())
    return found


def parse(line: str) -> None:
    """Raises a usage error of the library's for a line that is none; it has an exit status of 2."""
    program, *arguments = shlex.split(line)
    if program == "farshore-mobility":
        _parser().parse_args(arguments)
        return
    if program == "farshore-master-target":
        master_target_parser().parse_args(arguments)
        return
    command: Any = COMMAND
    context = command.make_context(program, list(arguments))
    while hasattr(command, "resolve_command"):
        name, command, rest = command.resolve_command(context, [*context._protected_args, *context.args])
        context = command.make_context(name, list(rest), parent=context)


LINES = [(page.name, line) for page in PAGES for line in typed(page)]
OURS = [
    (page, line)
    for page, line in LINES
    if line.startswith(("farshore ", "farshore-mobility ", "farshore-master-target "))
]


@pytest.mark.parametrize(("page", "line"), OURS)
def test_a_command_of_the_pages_parses(page: str, line: str) -> None:
    if "--version" not in line:
        parse(line)


@pytest.mark.parametrize("line", ["farshore machine find web1", "farshore machine show", "farshore status --loud"])
def test_the_control_other_lines_do_not(line: str) -> None:
    with pytest.raises(Exception) as refused:  # noqa: PT011 - the library's class is private to it
        parse(line)
    assert getattr(refused.value, "exit_code", 0) == 2


def test_the_control_nor_do_those_of_a_master_target() -> None:
    with pytest.raises(SystemExit):
        parse("farshore-master-target finish --now 4f6c")


def test_every_page_is_in_the_list() -> None:
    listed = (PAGES[0].parent / "README.md").read_text()
    assert len(OURS) > 60
    for page in PAGES:
        assert page.name == "README.md" or f"[{page.name}]" in listed
