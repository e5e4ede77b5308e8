"""``farshore up`` where the administrator's credentials open nothing, which home is meant, and ``farshore status``."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import typer
from tests.short_paths import short_path

from farshore.api_types.events import Alert, Severity
from farshore.api_types.servers import ProcessServer, ServerStatus, VaultStatus
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
    up.up(short_path(tmp_path), None, None, None, None, None, detach=True)
    assert stopped == []
    assert "was deleted or revoked" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("error", [Unsupported("alien", remedy="-"), TryLater("ended", remedy="-")])
def test_servers_that_do_not_get_ready_are_stopped(
    tmp_path: Path, stopped: list[Any], monkeypatch: pytest.MonkeyPatch, error: FarshoreError
) -> None:
    answering(monkeypatch, error)
    with pytest.raises(type(error)):
        up.up(short_path(tmp_path), None, None, None, None, None, detach=True)
    assert len(stopped) == 1


@pytest.mark.parametrize("given", ["here", "/srv/here"])
def test_the_home_that_is_named_is_meant_whatever_the_variable_says(
    given: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FARSHORE_HOME", "/elsewhere")
    monkeypatch.chdir(tmp_path)
    asked: list[Path] = []
    monkeypatch.setattr(supervisor, "stop", lambda installation: asked.append(installation.home))
    up.down(Path(given))
    up.down(None)
    assert asked == [tmp_path / given, Path("/elsewhere")]


def test_servers_do_not_inherit_another_installations_folders(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[dict[str, str]] = []
    monkeypatch.setenv("FARSHORE_HOME", "/elsewhere")
    monkeypatch.setenv("FARSHORE_PROCESS_SERVER_STATE", "/elsewhere/process-server")
    monkeypatch.setenv("FARSHORE_PORT", "18443")
    monkeypatch.setattr(subprocess, "Popen", lambda *_, env, **__: started.append(env))
    supervisor.Child("configuration server", ["true"], 0).tend()
    (env,) = started
    assert env["FARSHORE_PORT"] == "18443"
    assert not any(value.startswith("/elsewhere") for value in env.values())


SERVER = {"id": "1", "name": "ps1", "url": "https://ps1:9443", "standing": "well", "healthy": True, "last_seen": 1}
ALERT = {"id": 1, "kind": "rpo", "subject": "db1", "message": "db1 is late.", "remedy": "Look.", "raised": 1}


@pytest.mark.parametrize(
    ("alert", "server", "vault", "reason"),
    [
        (None, {}, {}, None),
        ("information", {}, {}, None),
        ("warning", {}, {}, "db1 is late."),
        (None, {"store_trouble": "The store is full."}, {}, "ps1: The store is full."),
        (None, {"healthy": False, "standing": "draining"}, {}, None),
        (None, {"healthy": False, "standing": "silent"}, {}, "ps1: its state is silent."),
        (None, {}, {"reachable": False, "trouble": "No route."}, "cannot be reached: No route."),
    ],
)
def test_what_is_degraded_has_a_status_and_reasons(
    alert: str | None,
    server: dict[str, Any],
    vault: dict[str, Any],
    reason: str | None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    answers: dict[type, Any] = {
        ServerStatus: ServerStatus(version="1", authority_fingerprint="aa"),
        VaultStatus: VaultStatus(**{"url": "file:///v", "vault": "v", "reachable": True, **vault}),
        ProcessServer: [ProcessServer(**{**SERVER, **server})],
        Alert: [Alert(severity=Severity(alert), **ALERT)] if alert else [],
    }
    transport = SimpleNamespace(get=lambda _, of: answers[of], get_list=lambda _, of: answers[of], url="https://dr")
    api = SimpleNamespace(transport=transport, machines=list)
    monkeypatch.setattr(up, "management", lambda state: api)
    if reason is None:
        up.status(tmp_path, as_json=True)
    else:
        with pytest.raises(typer.Exit) as ended:
            up.status(tmp_path, as_json=True)
        assert ended.value.exit_code == up.DEGRADED
    told = json.loads(capsys.readouterr().out)
    assert (told["state"], len(told["reasons"])) == (("well", 0) if reason is None else ("degraded", 1))
    assert reason is None or told["reasons"][0].endswith(reason)
