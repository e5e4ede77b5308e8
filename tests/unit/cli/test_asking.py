"""What destroys something asks first, alike; a reader is refused before being asked."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
from tests.unit.cli.test_commands import COMMANDS
from typer.testing import CliRunner

from farshore.api_types.users import Role, User
from farshore.cli.main import commands
from farshore.model.errors import Forbidden

ID = "11111111-1111-4111-8111-111111111111"
THROUGH_THE_SERVER = {
    "machine revoke": ["web1"],
    "machine unprotect": ["web1"],
    "machine delete": ["web1"],
    "policy delete": ["gold"],
    "point unpin": ["web1", "1:2"],
    "point delete": ["web1", ID],
    "failover run": ["web1"],
    "failover stop": [ID],
    "failover commit": [ID],
    "failover cleanup": [ID],
    "failover delete": [ID],
    "failback run": ["web1", "--site", "home"],
    "failback cancel": ["web1"],
    "alert remove": ["ops"],
    "site lost": ["far"],
    "site remove": ["far"],
    "process-server revoke": ["ps2"],
    "process-server remove": ["ps2"],
    "master-target revoke": ["mt2"],
    "master-target remove": ["mt2"],
    "job recover": [ID],
    "account remove": ["datacentre"],
    "user revoke": ["eve"],
    "user delete": ["eve"],
    "vmware remove": ["vc1"],
}
ON_THIS_HOST = {"catalog rebuild", "server restore"}
NOTHING_GOES = {
    "failover test": "it is isolated, and its end asks",
    "failover start": "it goes on from its disks",
    "failover reprotect": "points that were stay",
    "failback test": "it is isolated, and its end asks",
    "authority replace": "each step waits until everybody has followed",
    "process-server drain": "its machines move first",
    "token revoke": "another one is made in a second",
    "job cancel": "its source goes on, and it can be asked for again",
    "down": "agents keep the stream, recovered machines run on",
}
"""What changes things and does not ask."""
WORDS = ("delete", "remove", "revoke", "erase", "cleanup", "unprotect", "unpin", "maintain", "rebuild", "restore")
IN_A_VAULT = {"vault maintain", "vault erase", "vault unpin", "vault delete-point", "vault remove-key"}


class Caller:
    """A server that knows who asks; whatever else is asked of it is noted."""

    def __init__(self, role: Role) -> None:
        self.role = role
        self.asked: list[str] = []
        self.transport = self

    def get(self, path: str, *_more: Any) -> Any:
        if path == "/v1/users/self":
            return User(name="eve", role=self.role, created=0)
        return self._note(path)

    def points(self, *_more: Any, **_options: Any) -> list[Any]:
        return []

    def machines(self) -> list[Any]:
        return []

    def machine(self, _name: str) -> Any:
        return self._note("machine")

    def delete(self, path: str, *_more: Any) -> None:
        self._note(path)

    post = call = post_nothing = delete

    def recover_jobs(self, _request: Any) -> list[Any]:
        self._note("recover")
        return []

    def _note(self, what: str) -> Any:
        self.asked.append(what)
        raise AssertionError(f"{what} was asked of the server")


def invoked(monkeypatch: pytest.MonkeyPatch, name: str, role: Role, *more: str, answer: str = "") -> tuple[Any, Caller]:
    caller = Caller(role)
    module = importlib.import_module(f"farshore.cli.{name.split()[0].replace('-', '_')}")
    monkeypatch.setattr(module, "management", lambda *_: caller)
    words = [*name.split(), *THROUGH_THE_SERVER[name], *more]
    return CliRunner().invoke(commands, words, input=answer), caller


@pytest.mark.parametrize("name", sorted({*THROUGH_THE_SERVER, *IN_A_VAULT}))
def test_a_command_that_destroys_takes_yes(name: str) -> None:
    options = [option for parameter in COMMANDS[name].params for option in parameter.opts]
    assert {"--yes", "-y"} <= set(options)


def test_every_command_that_asks_is_looked_at_here() -> None:
    asks = {
        name for name, one in COMMANDS.items() if "--yes" in [it for parameter in one.params for it in parameter.opts]
    }
    # The --yes of `machine protect` is about a disk that is to be left out.
    assert asks - {"machine protect"} == {*THROUGH_THE_SERVER, *IN_A_VAULT, *ON_THIS_HOST}
    assert not asks & set(NOTHING_GOES)


def test_what_is_called_as_if_it_destroyed_asks() -> None:
    named = {name for name in COMMANDS if name.split()[-1].startswith((*WORDS, "cancel", "drain", "replace", "down"))}
    named -= {"vault restore"}  # it writes a file, and never over another
    assert named <= {*THROUGH_THE_SERVER, *IN_A_VAULT, *ON_THIS_HOST, *NOTHING_GOES}


@pytest.mark.parametrize("name", sorted(THROUGH_THE_SERVER))
def test_a_reader_is_refused_before_being_asked(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    done, caller = invoked(monkeypatch, name, Role.READER)
    assert isinstance(done.exception, Forbidden)
    assert "has the role reader" in str(done.exception)
    assert "[y/N]" not in done.output
    assert caller.asked == []


@pytest.mark.parametrize("name", sorted(set(THROUGH_THE_SERVER) - {"failover run", "failback run", "failback cancel", *(
    f"failover {one}" for one in ("stop", "commit", "cleanup", "delete"))}))  # fmt: skip
def test_a_no_does_nothing_and_a_yes_goes_on(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    done, caller = invoked(monkeypatch, name, Role.CONTRIBUTOR, answer="n\n")
    assert (done.exit_code, caller.asked) == (1, [])
    assert "[y/N]" in done.stderr
    assert "[y/N]" not in done.stdout
    _, caller = invoked(monkeypatch, name, Role.CONTRIBUTOR, "--yes")
    assert len(caller.asked) == 1
