"""``farshore event list``: what a follower is shown when more comes at once than a page holds."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import count, islice
from typing import Any

import pytest
from typer.testing import CliRunner

from farshore.api_types.events import Event, Severity
from farshore.cli import event as command
from farshore.cli.main import commands
from farshore.model.errors import TryLater

MORE = 2 * command.PAGE + 500
"""Events that come between two looks."""


class Server:
    """Answers as the server does. At each third question it is restarting."""

    transport = property(lambda self: self)

    def __init__(self) -> None:
        self.held: list[Event] = []
        self.asked: list[dict[str, Any]] = []
        self.restarts = True

    def come(self, number: int) -> None:
        start = len(self.held)
        self.held += [
            Event(
                id=one + 1,
                time=1,
                kind="k",
                severity=Severity.WARNING,
                actor="server",
                subject="s",
                message=f"[b]no {one}",
            )
            for one in range(start, start + number)
        ]

    def get_list(
        self, path: str, _item: type[Event], *, limit: int, after: int = 0, newest: bool = False, **wanted: Any
    ) -> list[Event]:
        assert path == "/v1/events"
        self.asked.append(wanted)
        if self.restarts and len(self.asked) % 3 == 0:
            raise TryLater("It is restarting.", remedy="Wait.")
        found = [one for one in self.held if one.id > after]
        return found[-limit:] if newest else found[:limit]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    made = Server()
    monkeypatch.setattr(command, "management", lambda: made)
    return made


def run(*options: str) -> str:
    result = CliRunner().invoke(commands, ["event", "list", *options], catch_exceptions=False)
    assert result.exit_code == 0
    return result.stdout


def test_a_follower_is_shown_a_burst_of_more_than_a_page_once_and_in_order(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.come(80)
    looks = count()

    def sleep(_seconds: float) -> None:
        if next(looks) % 4 == 0:
            server.come(MORE)

    monkeypatch.setattr(command.time, "sleep", sleep)
    followed: Iterator[Event] = command.Log(server, kind="k").followed(None, 50)  # type: ignore[arg-type]
    assert [event.id for event in islice(followed, 50 + 3 * MORE)] == list(range(31, 81 + 3 * MORE))
    assert server.asked[0] == {"kind": "k"}


def test_a_follower_goes_on_where_it_was_and_writes_a_line_for_each(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.restarts = False
    server.come(5)

    def stop(_seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(command.time, "sleep", stop)
    for options, wanted in ((("--json",), [4, 5]), ((), ["[b]no 3", "[b]no 4"])):
        result = CliRunner().invoke(commands, ["event", "list", "--follow", "--after", "3", *options])
        lines = result.stdout.splitlines()
        told = [json.loads(line)["id"] for line in lines] if options else [line.split("  ")[-1] for line in lines]
        assert told == wanted


def test_people_see_the_newest_last_and_a_cursor_gives_all_the_rest(server: Server) -> None:
    server.restarts = False
    assert "There are no events yet." in run()
    server.come(MORE)
    assert [one["id"] for one in json.loads(run("--json", "--limit", "3"))] == [MORE - 2, MORE - 1, MORE]
    assert run("--limit", "2").splitlines()[-1].endswith(f"no {MORE - 1}")
    assert [one["id"] for one in json.loads(run("--json", "--after", "7"))] == list(range(8, MORE + 1))
