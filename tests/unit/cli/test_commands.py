"""The command line itself: every command has help, an example where it is hard, and JSON for scripts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from farshore.cli.main import commands
from farshore.model.errors import Malformed

WITHOUT_JSON: set[str] = set()


def every_command() -> Iterator[tuple[str, Any]]:
    def walk(name: str, command: Any) -> Iterator[tuple[str, Any]]:
        if hasattr(command, "list_commands"):
            context = typer.Context(command)
            for inner in command.list_commands(context):
                yield from walk(f"{name} {inner}".strip(), command.get_command(context, inner))
        else:
            yield name, command

    yield from walk("", typer.main.get_command(commands))


COMMANDS = dict(every_command())


def test_the_commands_of_the_manual_are_there() -> None:
    wanted = {
        "up",
        "down",
        "status",
        "machine add",
        "machine list",
        "machine show",
        "machine check",
        "machine protect",
        "machine unprotect",
        "machine watch",
        "policy create",
        "point list",
        "point create",
        "failover run",
        "failover test",
        "failover cleanup",
        "failover commit",
        "failover list",
        "job watch",
        "job cancel",
        "event list",
        "alert list",
        "alert add",
        "alert acknowledge",
        "alert test",
        "audit list",
        "audit export",
        "audit verify",
        "user revoke",
        "user renew",
        "machine revoke",
        "process-server revoke",
        "process-server list",
        "process-server show",
        "process-server add",
        "process-server drain",
        "process-server limit",
        "process-server remove",
        "token create",
        "user add",
        "vault restore",
    }
    assert wanted <= set(COMMANDS)


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_a_command_has_help_and_json(name: str) -> None:
    command = COMMANDS[name]
    assert command.help, name
    options = [option for parameter in command.params for option in parameter.opts]
    assert "--json" in options or name in WITHOUT_JSON
    for parameter in command.params:
        assert getattr(parameter, "help", "") or parameter.name in ("install_completion", "show_completion"), (
            f"{name}: {parameter.name} has no help"
        )


def test_help_and_completion_need_no_server() -> None:
    runner = CliRunner()
    assert "failover" in runner.invoke(commands, ["--help"]).output
    assert (
        "--latest-app-consistent"
        in runner.invoke(commands, ["failover", "run", "--help"], env={"COLUMNS": "200"}).output
    )
    completed = runner.invoke(
        commands,
        [],
        env={"_FARSHORE_COMPLETE": "complete_bash", "COMP_WORDS": "farshore mach", "COMP_CWORD": "1"},
        prog_name="farshore",
    )
    assert completed.output.split() == ["machine"]


def test_a_scanned_point_cannot_be_asked_for() -> None:
    done = CliRunner().invoke(commands, ["point", "create", "db1", "--kind", "scanned"])
    assert done.exit_code != 0
    assert isinstance(done.exception, Malformed)
