"""What `farshore up` refuses before anything is made or started."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from typer.testing import CliRunner

from farshore.cli.main import commands
from farshore.configuration_server import setup
from farshore.model.errors import Malformed


@pytest.mark.parametrize("option", ["--port", "--process-server-port"])
def test_a_port_that_is_taken_is_named_and_nothing_is_made(
    tmp_path: Path, option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, socket.create_server(("127.0.0.1", 0)) as other:
        port, free = taken.getsockname()[1], other.getsockname()[1]
        other.close()
        rest = "--process-server-port" if option == "--port" else "--port"
        home = tmp_path / "x"
        words = ["--home", str(home), "--listen", "127.0.0.1", option, str(port), rest, str(free), "--check-ports"]
        assert setup.main([*words, "--json"]) == 2
    said = capsys.readouterr().err
    assert f"Port {port} of 127.0.0.1" in said
    assert option in said
    assert not home.exists()


def test_a_home_that_cannot_be_made_is_refused_in_words(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert setup.main(["--home", str(tmp_path / ("x" * 300)), "--json"]) == 2
    assert "File name too long" in capsys.readouterr().err


@pytest.mark.parametrize("more", [[], ["--json"]])
def test_a_home_whose_path_leaves_no_room_for_sockets_is_refused(tmp_path: Path, more: list[str]) -> None:
    home = tmp_path / ("x" * 50)
    done = CliRunner().invoke(commands, ["up", "--home", str(home), *more])
    assert isinstance(done.exception, Malformed)
    assert f"{home} has {len(str(home))} bytes" in done.exception.message
    assert not home.exists()


@pytest.mark.parametrize("home", ["", " ", "/tmp/" + "x" * 300])
def test_an_empty_home_and_one_that_cannot_be_are_refused(home: str) -> None:
    for command in ("up", "down", "status"):
        done = CliRunner().invoke(commands, [command, "--home", home])
        assert isinstance(done.exception, Malformed), command
