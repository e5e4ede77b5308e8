"""``farshore up`` where the administrator's credentials open nothing: said, and no reason to stop the servers."""

from __future__ import annotations

import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from farshore.cli import supervisor, up
from farshore.model.errors import FarshoreError, Forbidden, TryLater, Unauthenticated, Unsupported


@pytest.fixture
def stopped(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The installations that were stopped. What starts none of them is left out."""
    found: list[Any] = []
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: subprocess.CompletedProcess([], 0))
    monkeypatch.setattr(supervisor, "check_not_running", lambda _: None)
    monkeypatch.setattr(supervisor, "start_in_background", lambda _: None)
    monkeypatch.setattr(supervisor, "stop", found.append)
    return found


def answering(monkeypatch: pytest.MonkeyPatch, error: FarshoreError) -> None:
    def refuse(*_: object) -> None:
        raise error

    api = SimpleNamespace(transport=SimpleNamespace(get_list=refuse, url="https://127.0.0.1"))
    monkeypatch.setattr(supervisor.Installation, "api", lambda _: api)


@pytest.mark.parametrize("error", [Forbidden("gone", remedy="-"), Unauthenticated("revoked", remedy="-")])
def test_an_administrator_who_was_shut_out_stops_no_server(
    tmp_path: Path,
    stopped: list[Any],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: FarshoreError,
) -> None:
    answering(monkeypatch, error)
    up.up(tmp_path, None, None, None, None, None, detach=True)
    assert stopped == []
    assert "its user was deleted or revoked" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("error", [Unsupported("alien", remedy="-"), TryLater("ended", remedy="-")])
def test_servers_that_do_not_get_ready_are_stopped(
    tmp_path: Path, stopped: list[Any], monkeypatch: pytest.MonkeyPatch, error: FarshoreError
) -> None:
    answering(monkeypatch, error)
    with pytest.raises(type(error)):
        up.up(tmp_path, None, None, None, None, None, detach=True)
    assert len(stopped) == 1
