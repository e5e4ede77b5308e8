"""`farshore logs`: the lines of one program, with their tracebacks, from the one log."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from farshore.cli import logs
from farshore.cli.main import commands
from farshore.model.errors import NotFound

LINES = """\
2026-01-31T12:00:00.000Z INFO configuration-server farshore.configuration_server.main: Serving
2026-01-31T12:00:01.000Z ERROR process-server farshore.process_server.main: It failed
Traceback (most recent call last):
  File "x", line 1
2026-01-31T12:00:02.000Z WARNING supervisor farshore.cli.supervisor: The process server ended with status 1
2026-01-31T12:00:03.000Z INFO process-server farshore.process_server.main: Ready \x1b[31m
"""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "log").mkdir()
    (tmp_path / "log" / "farshore.log").write_text(LINES)
    return tmp_path


def shown(home: Path, *more: str) -> list[str]:
    done = CliRunner().invoke(commands, ["logs", "--home", str(home), *more], catch_exceptions=False)
    assert done.exit_code == 0
    return done.output.splitlines()


def test_all_or_one_program_is_shown(home: Path) -> None:
    assert len(shown(home)) == 6
    mine = shown(home, "process-server")
    assert [line[:9] for line in mine] == ["2026-01-3", "Traceback", '  File "x', "2026-01-3"]
    assert "\x1b" not in mine[-1]
    assert len(shown(home, "supervisor")) == 1


def test_the_newest_lines_come_last_and_are_bounded(home: Path) -> None:
    assert shown(home, "-n", "1")[0].startswith("2026-01-31T12:00:03")
    assert shown(home, "-n", "0") == []


def test_json_has_the_parts(home: Path) -> None:
    first = json.loads(shown(home, "--json")[0])
    assert (first["level"], first["program"]) == ("INFO", "configuration-server")


def test_lines_that_come_are_followed_whole(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = home / "log" / "farshore.log"
    steps = iter(["2026-01-31T12:00:04.000Z INFO process-server x: half", " a line\n"])

    def write_more(_seconds: float) -> None:
        with file.open("a") as end:
            end.write(next(steps))

    monkeypatch.setattr(logs.time, "sleep", write_more)
    with file.open() as opened:
        opened.seek(0, 2)
        assert next(logs._coming(opened)).endswith("half a line")


def test_where_nothing_was_started_it_says_so(tmp_path: Path) -> None:
    done = CliRunner().invoke(commands, ["logs", "--home", str(tmp_path)])
    assert isinstance(done.exception, NotFound)
    assert "journalctl" in done.exception.remedy
