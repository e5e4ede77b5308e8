"""Every command that a message, a remedy or a help text names exists, with the options that are named beside it."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import pytest
import typer

from farshore.cli.main import commands
from farshore.master_target.main import _parser as master_target_parser
from farshore.mobility.main import _parser as mobility_parser
from farshore.process_server.main import _parser as process_server_parser

COMMAND: Any = typer.main.get_command(commands)
SOURCE = Path(__file__).parents[2] / "src/farshore"
PARSERS = {
    "farshore-mobility": mobility_parser(),
    "farshore-master-target": master_target_parser(),
    "farshore-process-server": process_server_parser(),
}
_NAMED = re.compile(r"(?<![\w/.'@-])(?<!-u )(farshore(?:-[a-z-]+)?) ([a-z][\w -]*)")
_OPTION = re.compile(r"(?<=\s)--?[a-z][a-z-]*")
_DOMAINS = ("farshore vault 1", "farshore agent release 1")
"""Strings that separate the domains of keys and signatures."""


def texts() -> list[tuple[str, str]]:
    """Return (file, text) of every string of the sources; a value in it reads X."""
    found = []
    for path in sorted(SOURCE.rglob("*.py")):
        tree = ast.parse(path.read_text())
        inside = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in ast.walk(node)}
        for node in ast.walk(tree):
            if isinstance(node, ast.JoinedStr):
                parts = [one.value if isinstance(one, ast.Constant) else "X" for one in node.values]
                found.append((str(path.relative_to(SOURCE)), "".join(map(str, parts))))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inside:
                found.append((str(path.relative_to(SOURCE)), node.value))
    return [(path, text) for path, text in found if "farshore" in text and not text.startswith(_DOMAINS)]


def unknown(text: str) -> list[str]:
    """Return what ``text`` calls a command, or an option of one, and is none."""
    lost = []
    for found in _NAMED.finditer(text):
        program, words = found[1], found[2].split()
        options = _OPTION.findall(" " + re.split(r"[`.;,:\n]|$", text[found.start() :])[0])
        if program in PARSERS:
            actions = PARSERS[program]._subparsers
            names = next(iter(actions._group_actions)).choices if actions else {}  # type: ignore[union-attr]
            lost += [] if words[0] in names else [f"{program} {words[0]}"]
        elif program == "farshore":
            lost += _of_command(words, options)
        else:
            lost.append(program)
    return lost


def _of_command(words: list[str], options: list[str]) -> list[str]:
    command, name = COMMAND, "farshore"
    for word in words:
        if not hasattr(command, "list_commands"):
            break
        name += f" {word}"
        found = command.get_command(typer.Context(command), word)
        if found is None:
            return [name]
        command = found
    has = {option for one in command.params for option in [*one.opts, *one.secondary_opts]}
    return [f"{name} {option}" for option in options if option not in {*has, "--help"}]


def test_every_command_that_is_named_exists() -> None:
    named = texts()
    assert len(named) > 300
    assert [(path, one) for path, text in named for one in unknown(text)] == []


@pytest.mark.parametrize(
    "text",
    [
        "See `farshore machine find`.",
        "Run: farshore machine show X --loud",
        "Stop it: farshore halt",
        "farshore-mobility dance",
        "farshore-vault",
    ],
)
def test_the_control_others_are_found(text: str) -> None:
    assert unknown(f"{text} now")
