"""A push from the command line's side: a real SSH agent signs, and its key is in no file, argument or record."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.scenarios.push.test_push_over_ssh import Machine as Host
from tests.scenarios.push.test_push_over_ssh import machine as machine
from tests.scenarios.push.test_push_over_ssh import push, ready_bundle

from farshore.api_types.machines import Token, TokenRequest, TokenView
from farshore.cli import agent_push
from farshore.model.errors import Forbidden, Malformed

__all__ = ["machine", "ready_bundle"]


@pytest.fixture
def agent(tmp_path: Path, machine: Host) -> Iterator[str]:
    """The socket of an agent that holds the key which opens the machine."""
    socket = f"/tmp/f-{os.getpid()}.agent"
    process = subprocess.Popen(["ssh-agent", "-D", "-a", socket], stdout=subprocess.DEVNULL)
    key = tmp_path / "key"
    machine.user_key.write_private_key(key)
    key.chmod(0o600)
    environment = {**os.environ, "SSH_AUTH_SOCK": socket}
    for _ in range(100):
        done = subprocess.run(["ssh-add", str(key)], env=environment, capture_output=True, check=False)
        if done.returncode == 0:
            break
    assert done.returncode == 0, done.stderr
    key.unlink()
    yield socket
    process.terminate()
    process.wait()


def test_the_agent_signs(machine: Host, agent: str, tmp_path: Path) -> None:
    _, told = push(machine, tmp_path, private_key="", agent=agent)
    assert told[-1] == "the mobility service runs"


def test_an_agent_that_is_empty_or_away_is_named(machine: Host, agent: str, tmp_path: Path) -> None:
    subprocess.run(["ssh-add", "-D"], env={**os.environ, "SSH_AUTH_SOCK": agent}, check=True, capture_output=True)
    with pytest.raises(Malformed, match="holds no keys"):
        push(machine, tmp_path, private_key="", agent=agent)
    with pytest.raises(Malformed, match="does not answer"):
        push(machine, tmp_path, private_key="", agent="/nowhere")


class Api:
    """The API as far as a push needs it."""

    def __init__(self, used: int) -> None:
        self.used, self.deleted = used, list[str]()
        self.transport = self

    def create_token(self, _request: TokenRequest) -> Token:
        return Token(token="very-secret-token-1", authority_fingerprint="ab" * 32, expires=7, server_url="https://dr")

    def get_list(self, _path: str, _kind: Any) -> list[TokenView]:
        return [
            TokenView(id="other", name="", created=1, expires=6),
            TokenView(id="mine", name="", created=1, expires=7, used=self.used, machine="m1"),
        ]

    def delete(self, path: str) -> None:
        self.deleted.append(path)

    def machine(self, name: str) -> Any:
        assert name == "m1"

        class Found:
            name, last_seen = "web1", 5

        return Found()


LOGIN = {"user": "root", "jump": "", "host_key": "", "disks": [], "server_url": ""}


def pushed(api: Any, machine: Host) -> Any:
    login = {**LOGIN, "host": "127.0.0.1", "port": machine.port}
    return agent_push.push(api, login, TokenRequest(), quiet=True)


def test_a_push_that_fails_revokes_its_token(machine: Host, agent: str, monkeypatch: pytest.MonkeyPatch) -> None:
    subprocess.run(["ssh-add", "-D"], env={**os.environ, "SSH_AUTH_SOCK": agent}, check=True, capture_output=True)
    other = machine.folder / "other"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(other)], check=True)
    subprocess.run(["ssh-add", str(other)], env={**os.environ, "SSH_AUTH_SOCK": agent}, check=True, capture_output=True)
    monkeypatch.setenv("SSH_AUTH_SOCK", agent)
    api = Api(used=0)
    with pytest.raises(Forbidden, match="does not accept"):
        pushed(api, machine)
    assert api.deleted == ["/v1/enrolment-tokens/mine"]


def test_the_machine_is_awaited_and_the_token_is_in_no_argument(
    machine: Host, agent: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSH_AUTH_SOCK", agent)
    ran: list[Any] = []

    def run(command: list[str], **options: Any) -> Any:
        ran.append((command, options["input"]))
        return subprocess.CompletedProcess(command, 0, '{"host_key": "SHA256:x"}', None)

    monkeypatch.setattr(subprocess, "run", run)
    assert pushed(Api(used=9), machine).name == "web1"
    ((command, given),) = ran
    assert "very-secret-token-1" not in " ".join(command)
    assert "very-secret-token-1" in given


def test_without_an_agent_nothing_begins(machine: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    with pytest.raises(Malformed, match="SSH_AUTH_SOCK"):
        pushed(Api(used=0), machine)
