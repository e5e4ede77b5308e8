"""Names are completed from the server; where it does not answer, nothing is offered and nothing said."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import unquote

import pytest
from typer.testing import CliRunner

from farshore.cli import connection
from farshore.cli.main import commands
from farshore.model.errors import Unreachable


def completed(words: str, monkeypatch: pytest.MonkeyPatch, answer: Any) -> tuple[list[str], str]:
    class Api:
        transport: Any

        def request(self, _method: str, path: str) -> bytes:
            if isinstance(answer, Exception):
                raise answer
            asked, _, prefix = path.partition("?limit=200&prefix=")
            rows = [row for row in answer[asked] if str(next(iter(row.values()))).startswith(unquote(prefix))]
            return json.dumps(rows[:200]).encode()

    api = Api()
    api.transport = api
    monkeypatch.setattr(connection, "management", lambda: api)
    place = {"_FARSHORE_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(len(words.split()) - 1)}
    done = CliRunner().invoke(commands, [], env=place, prog_name="farshore")
    return done.stdout.split(), done.stderr


MACHINES = {"/v1/machine-summaries": [{"name": "web1"}, {"name": "web2"}, {"name": "db1"}]}


def test_machines_are_offered(monkeypatch: pytest.MonkeyPatch) -> None:
    assert completed("farshore machine show w", monkeypatch, MACHINES)[0] == ["web1", "web2"]
    assert completed("farshore failover run d", monkeypatch, MACHINES)[0] == ["db1"]
    many = {"/v1/machine-summaries": [{"name": f"app{number:03}"} for number in range(300)] + [{"name": "z 1"}]}
    assert completed("farshore machine show z", monkeypatch, many)[0] == ["z", "1"], "behind the first page"
    assert completed("farshore machine show app25", monkeypatch, many)[0] == [f"app25{last}" for last in range(10)]
    sites = {"/v1/sites": [{"id": "qemu"}]}
    assert completed("farshore site show q", monkeypatch, sites)[0] == ["qemu"]


@pytest.mark.parametrize("trouble", [Unreachable("away", remedy=""), ValueError("no JSON"), KeyError("x")])
def test_trouble_is_silent(monkeypatch: pytest.MonkeyPatch, trouble: Exception) -> None:
    assert completed("farshore machine show w", monkeypatch, trouble) == ([], "")
