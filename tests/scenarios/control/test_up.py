"""``farshore up`` with its real servers: ready means ready, a crash is survived, nothing stays after ``down``."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.short_paths import short_path
from tests.waiting import PATIENCE, until

from farshore.lab.ports import free_port


class Shell:
    """Runs ``farshore`` as users do."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.environment = {**os.environ, "FARSHORE_HOME": str(home), "COLUMNS": "200"}
        self.environment.pop("FARSHORE_CREDENTIALS", None)

    def run(self, *arguments: str, status: int = 0, stderr: bool = False, typed: str = "", **environment: str) -> str:
        """What it printed. ``typed`` answers what it asks."""
        command = [sys.executable, "-m", "farshore.cli.main", *arguments]
        done = subprocess.run(
            command, env={**self.environment, **environment}, input=typed, capture_output=True, text=True, timeout=240,
            check=False,
        )  # fmt: skip
        assert done.returncode == status, f"{arguments}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stderr if status or stderr else done.stdout

    def json(self, *arguments: str, **environment: str) -> Any:
        return json.loads(self.run(*arguments, "--json", **environment))

    def pids(self) -> dict[str, int]:
        state = json.loads((self.home / "run" / "state.json").read_text())
        return {name: pid for name, pid in state.items() if name != "started"}


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    made = Shell(short_path(tmp_path / "farshore"))
    yield made
    made.run("down")


def lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_from_nothing_to_ready_through_a_crash_to_nothing(shell: Shell) -> None:
    ports = ["--port", str(free_port()), "--process-server-port", str(free_port())]
    ready = shell.json("up", "--detach", "--listen", "127.0.0.1", "--advertise", "10.0.2.2", *ports)
    assert stat.S_IMODE(Path(ready["credentials"]).stat().st_mode) == 0o600
    assert stat.S_IMODE(Path(ready["vault_key"]).stat().st_mode) == 0o600

    status = shell.json("status")
    assert status["vault"]["reachable"]
    assert status["alerts"] == []
    (process_server,) = status["process_servers"]
    assert process_server["healthy"]
    assert process_server["url"] == f"https://10.0.2.2:{ports[3]}"

    assert "is running" in shell.run("up", "--detach", status=2)
    assert shell.json("machine", "list") == []
    assert "no machine 'db1'" in shell.run("point", "list", "db1", status=2)
    token = shell.json("token", "create", "--name", "db1")
    assert token["server_url"] == f"https://10.0.2.2:{ports[1]}"

    reader = shell.home / "reader.json"
    shell.run("user", "add", "eve", "--output", str(reader))
    refused = shell.run("policy", "create", "gold", status=77, FARSHORE_CREDENTIALS=str(reader))
    assert "needs the role contributor" in refused
    assert "Remedy:" in refused
    policies = shell.json("policy", "list", FARSHORE_CREDENTIALS=str(reader))
    assert [policy["name"] for policy in policies] == ["default", "default-failback"]
    reader.chmod(0o644)
    assert "chmod 600" in shell.run("policy", "list", status=2, FARSHORE_CREDENTIALS=str(reader))

    before = shell.pids()
    os.kill(before["configuration server"], signal.SIGKILL)
    until(lambda: shell.pids()["configuration server"] not in (0, before["configuration server"]), "a new server")
    give_up = time.monotonic() + PATIENCE
    while True:
        try:
            assert shell.json("status")["authority_fingerprint"] == status["authority_fingerprint"]
            break
        except AssertionError:
            assert time.monotonic() < give_up
    audit = shell.json("event", "list", "--audit")
    assert [event["kind"] for event in audit] == ["token.created", "user.created"]

    pids = shell.pids()
    assert shell.json("down") == {"stopped": True}
    assert not any(lives(pid) for pid in pids.values())
    assert "did not answer" in shell.run("machine", "list", status=75)


@pytest.mark.soak  # tests/unit/cli/test_up.py asks the same of the command alone
def test_an_administrator_who_was_deleted_stops_no_server(shell: Shell) -> None:
    ports = ["--port", str(free_port()), "--process-server-port", str(free_port())]
    shell.run("up", "--detach", "--listen", "127.0.0.1", *ports)
    other = str(shell.home / "other.json")
    shell.run("user", "add", "mara", "--role", "contributor", "--output", other)
    shell.run("user", "delete", "admin", "--yes", FARSHORE_CREDENTIALS=other)
    shell.run("down")
    assert "was deleted or revoked" in shell.run("up", "--detach", stderr=True)
    assert shell.json("status", FARSHORE_CREDENTIALS=other)["supervised_here"]
    assert [one["name"] for one in shell.json("user", "list", FARSHORE_CREDENTIALS=other)] == ["mara"]
