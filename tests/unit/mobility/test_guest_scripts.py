"""What of scripts an agent runs: those for this machine on this hardware, once each, within bounds."""

from __future__ import annotations

import base64
import hashlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.waiting import until

from farshore.api_types.guest_scripts import (
    GuestScript,
    GuestScriptResult,
    GuestScriptStanding,
)
from farshore.api_types.guest_scripts import (
    GuestScripts as Granted,
)
from farshore.client.machine_self import MachineSelf
from farshore.mobility.control import guest_scripts, led_out
from farshore.mobility.control.bounded_run import run_bounded
from farshore.mobility.control.guest_scripts import GuestScripts
from farshore.mobility.settings import Settings
from farshore.model.commands import CommandState
from farshore.model.errors import NotFound, Unreachable

HERE, HARDWARE = "11111111-1111-4111-8111-111111111111", "33333333-3333-4333-8333-333333333333"


def script(text: str, **changed: Any) -> GuestScript:
    content = text.encode()
    values = {
        "id": "s1",
        "machine": HERE,
        "failover": HARDWARE,
        "hardware": HARDWARE,
        "content": base64.b64encode(content).decode(),
        "digest": hashlib.sha256(content).hexdigest(),
        "seconds": 60,
        **changed,
    }
    return GuestScript.model_validate(values)


class Server(MachineSelf):
    """The two calls. ``away``: results do not arrive."""

    def __init__(self, *granted: GuestScript) -> None:
        self.granted, self.away = list(granted), False
        self.asked: list[str] = []
        self.heard: list[tuple[str, GuestScriptResult]] = []

    def guest_scripts(self, hardware: str) -> Granted:
        self.asked.append(hardware)
        return Granted(scripts=self.granted)

    def answer_guest_script(self, script: str, result: GuestScriptResult) -> GuestScriptStanding:
        if self.away:
            raise Unreachable("It is away.", remedy="")
        self.heard.append((script, result))
        return GuestScriptStanding(id=script, state=CommandState.SUCCEEDED)

    def close(self) -> None: ...


def agent(server: Server) -> GuestScripts:
    return GuestScripts(HERE, HARDWARE, lambda: server, lambda: True)


def test_a_script_is_run_with_what_it_may_know_and_answered() -> None:
    server = Server(script('#!/bin/sh\necho "$FARSHORE_MACHINE_ID $FARSHORE_FAILOVER ${HOME-none}"; exit 3\n'))
    agent(server).look()
    assert server.asked == [HARDWARE]
    assert server.heard == [("s1", GuestScriptResult(hardware=HARDWARE, status=3, output=f"{HERE} {HARDWARE} none"))]


def test_it_is_run_once_however_often_its_result_is_lost(tmp_path: Path) -> None:
    server = Server(script(f"#!/bin/sh\necho >> {tmp_path}/runs\n"))
    server.away = True
    made = agent(server)
    for _ in range(3):
        with pytest.raises(Unreachable):
            made.look()
    server.away = False
    made.look()
    assert (tmp_path / "runs").read_text() == "\n"
    assert [result.status for _, result in server.heard] == [0]


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"machine": "another"}, "is for another"),
        ({"hardware": "hw-1"}, "on hw-1"),
        ({"digest": "0" * 64}, "differs from the granted one"),
        ({"content": "AAA"}, "damaged"),
    ],
)
def test_what_is_for_another_machine_or_damaged_is_not_run(tmp_path: Path, changed: dict[str, str], why: str) -> None:
    server = Server(script(f"#!/bin/sh\ntouch {tmp_path}/ran\n", **changed))
    agent(server).look()
    ((_, result),) = server.heard
    assert result.status is None
    assert why in result.output
    assert not (tmp_path / "ran").exists()


def test_what_cannot_be_run_is_answered() -> None:
    server = Server(script("no program"))
    agent(server).look()
    assert "It was not run:" in server.heard[0][1].output


def test_one_that_the_server_has_forgotten_is_passed_over() -> None:
    class Forgetful(Server):
        def answer_guest_script(self, script: str, result: GuestScriptResult) -> GuestScriptStanding:
            raise NotFound("Gone.", remedy="")

    agent(Forgetful(script("#!/bin/sh\n"))).look()


def test_a_machine_that_is_no_recovered_one_hears_of_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vendor = tmp_path / "sys_vendor"
    monkeypatch.setattr(led_out, "_DMI_VENDOR", vendor)
    monkeypatch.setattr(guest_scripts, "hardware_id", lambda: HARDWARE)
    monkeypatch.setattr(guest_scripts, "WayOut", _never)
    assert guest_scripts.guest_scripts(Settings(state=tmp_path)) is None
    vendor.write_text("QEMU\n")
    assert guest_scripts.guest_scripts(Settings(state=tmp_path)) is None
    vendor.write_text("Farshore\n")
    monkeypatch.setattr(guest_scripts, "hardware_id", str)
    assert guest_scripts.guest_scripts(Settings(state=tmp_path)) is None, "it could not be told from others"


def _never(*_: object, **__: object) -> None:
    raise AssertionError("it listens")


# The bounds.


@pytest.fixture
def marked(tmp_path: Path) -> Iterator[Path]:
    """A file that what was started writes its process id into; that must be gone at the end."""
    made = tmp_path / "pid"
    yield made
    until(lambda: not _runs(int(made.read_text())), "the end of all that it started")


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return "\nState:\tZ" not in Path(f"/proc/{process}/status").read_text()


def test_one_that_takes_too_long_is_killed_with_what_it_started(marked: Path) -> None:
    program = f"#!/bin/sh\necho begun\nsleep 1000 & echo $! > {marked}\nwait\n".encode()
    status, said = run_bounded(program, {}, 0.5, 100)
    assert (status, said) == (None, b"begun\n")


def test_what_it_leaves_in_the_background_is_not_waited_for(marked: Path) -> None:
    program = f"#!/bin/sh\nsleep 1000 & echo $! > {marked}\necho done\n".encode()
    before = time.monotonic()
    assert run_bounded(program, {}, 500, 100) == (0, b"done\n")
    assert time.monotonic() - before < 400


def test_of_a_flood_the_end_is_kept() -> None:
    program = b"#!/bin/sh\nhead -c 20000000 /dev/zero | tr '\\0' x; printf end\n"
    assert run_bounded(program, {}, 500, 10) == (0, b"xxxxxxxend")
    status, said = run_bounded(b"#!/bin/sh\nexec yes\n", {}, 0.5, 10)
    assert (status, len(said)) == (None, 10)


def test_one_that_closes_its_output_is_waited_for() -> None:
    assert run_bounded(b"#!/bin/sh\nexec >&- 2>&-\nsleep 0.3\nexit 7\n", {}, 500, 10) == (7, b"")
    assert run_bounded(b"#!/bin/sh\nexec >&- 2>&-\nsleep 1000\n", {}, 0.5, 10) == (None, b"")


def test_one_that_is_killed_tells_by_what() -> None:
    assert run_bounded(b"#!/bin/sh\nkill -9 $$\n", {}, 500, 10) == (-signal.SIGKILL, b"")
