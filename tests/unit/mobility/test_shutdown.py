"""The machine is shut down for a failover: its last write lies before its last point, or it goes on as it was."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any, Callable, Iterator, List, Optional, Sequence

import pytest
from tests.unit.mobility.test_commands import ServerDouble, UpgradesDouble

from farshore.api_types.commands import Command, CommandResult, CommandStanding
from farshore.formats.point_payload import PointPayload
from farshore.mobility.commands.handling import Handling
from farshore.mobility.commands.record import Record
from farshore.mobility.control.removal import Removal
from farshore.mobility.control.shutdown import Shutdown
from farshore.mobility.points.services import Services
from farshore.mobility.settings import Settings
from farshore.mobility.upgrade.releases import UNIT
from farshore.model.commands import CommandState
from farshore.model.errors import TryLater, Unreachable
from farshore.model.identifiers import Sequence as Number

OFF = Command(id="11111111-1111-4111-8111-111111111111", kind="shut-down", arguments={"name": "last", "hold": 5})
LATE = "mysql.service"
TOLD = f"""Id=postgresql.service
Before=multi-user.target shutdown.target
After=network.target basic.target

Id={LATE}
Before=multi-user.target
After=basic.target

Id=NetworkManager.service
Before=network.target
After=basic.target dbus.service

Id=early.service
Before=basic.target
After=local-fs.target
"""


class Systemd:
    """Of a machine with these services; what is stopped ends, but for LATE."""

    def __init__(self, log: List[str]) -> None:
        names = ("postgresql", "NetworkManager", "early", "dbus", "ssh", "systemd-journald")
        self.running = {*(f"{name}.service" for name in names), LATE, UNIT}
        self.log, self.trouble = log, ""

    def __call__(self, arguments: Sequence[str], seconds: float) -> str:
        if self.trouble:
            raise TryLater(self.trouble, remedy="")
        if "list-units" in arguments:
            return "".join(f"{name} loaded active running what it is\n" for name in sorted(self.running))
        names = set(arguments[arguments.index("--") + 1 :])
        if "show" in arguments:
            assert names <= self.running - {UNIT, "dbus.service", "ssh.service", "systemd-journald.service"}
            return TOLD
        self.log.append(f"{'start' if 'start' in arguments else 'stop'} {' '.join(sorted(names))}")
        self.running = self.running | names if "start" in arguments else self.running - (names - {LATE})
        return ""


class Milestone:
    def __init__(self) -> None:
        self.reached, self.failed, self.sequence, self.time = True, False, Number(9), 5


class Run:
    """An epoch's run: what it has is with the process server once ``arrives``."""

    consistent, arrives = True, True

    class grant:  # noqa: N801
        epoch = 3

    def __init__(self, log: List[str]) -> None:
        self.log, self.made = log, Milestone()

    def cut(self, point: PointPayload, still: Callable[[], bool]) -> Milestone:
        assert still()
        self.log.append(f"point {point.name} {point.kind.value}")
        return self.made

    @property
    def acknowledged(self) -> int:
        return 9 if self.arrives else 8


class Stillness:
    """Frozen for so many looks."""

    def __init__(self, looks: int) -> None:
        self.looks = looks

    def holds(self) -> bool:
        self.looks -= 1
        return self.looks >= 0


class Server(ServerDouble):
    """Says ``state`` to a result; ``log`` tells when it heard it first."""

    def __init__(self, log: List[str]) -> None:
        super().__init__()
        self.log, self.state = log, CommandState.SUCCEEDED

    def answer(self, command: str, result: CommandResult) -> CommandStanding:
        standing = super().answer(command, result)
        self.log.append("heard" if result.payload else "heard of a failure")
        return standing.model_copy(update={"state": self.state})


class Machine:
    def __init__(self, folder: Path, *, ours: bool = True, looks: int = 6) -> None:
        self.log: List[str] = []
        self.systemd, self.server, self.run = Systemd(self.log), Server(self.log), Run(self.log)
        self.settings, self.looks, self.ours = Settings(state=folder), looks, ours
        self.off_fails = False

        class Replication:
            current: Any = self.run
            disks: Sequence[object] = ()

        self.replication = Replication()
        self.asked_systemd: List[Sequence[str]] = []

    @contextlib.contextmanager
    def hold(self, disks: Sequence[object], seconds: float) -> Iterator[Stillness]:
        assert seconds == 5
        self.log.append("freeze")
        try:
            yield Stillness(self.looks)
        finally:
            self.log.append("thaw")

    def off(self) -> None:
        if self.off_fails:
            raise OSError("no such key")
        self.log.append("off")

    def agent(self) -> Handling:
        services = Services(self.settings.stopped_services, self.systemd)
        shutdown = Shutdown(services, hold=self.hold, off=self.off, ours=lambda: self.ours)
        shutdown.recover()
        doubles: Any = (self.server, self.replication, UpgradesDouble())
        removal = Removal(self.settings, None, lambda: None)
        return Handling(*doubles, Record(self.settings.commands), removal, shutdown)

    def is_asked(self) -> Optional[CommandResult]:
        handling = self.agent()
        handling.offered([OFF])
        handling._one_by_one.submit(lambda: None).result(60)
        return self.server.heard[-1][1] if self.server.heard else None


@pytest.fixture(autouse=True)
def no_systemd(monkeypatch: pytest.MonkeyPatch) -> List[Sequence[str]]:
    """Whatever these tests do, this machine is not switched off."""
    asked: List[Sequence[str]] = []

    def ask(arguments: Sequence[str]) -> str:
        asked.append(arguments)
        return ""

    def never() -> None:
        raise AssertionError

    monkeypatch.setattr("farshore.mobility.control.shutdown.run_systemctl", ask)
    monkeypatch.setattr("farshore.mobility.control.shutdown.power_off", never)
    monkeypatch.setattr("farshore.mobility.control.shutdown._TELL_SECONDS", 0.0)
    monkeypatch.setattr("farshore.mobility.control.shutdown._LOOK_SECONDS", 0.0)
    return asked


STOPPED = f"stop {LATE} postgresql.service"


def test_the_machine_is_switched_off_frozen_once_its_last_point_was_heard_of(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    result = machine.is_asked()
    assert machine.log[:5] == [STOPPED, "freeze", "point last app-consistent", "heard", "off"]
    assert result is not None
    payload: Any = result.payload
    assert (payload.epoch, payload.sequence, payload.still) == (3, 9, [LATE])


def test_only_the_machines_own_service_shuts_it_down(tmp_path: Path) -> None:
    machine = Machine(tmp_path, ours=False)
    result = machine.is_asked()
    assert result is not None
    assert result.failure is not None
    assert result.failure.code == "refused"
    assert machine.log == ["heard of a failure"]


def test_last_writes_that_do_not_arrive_keep_the_machine_running(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    machine.run.arrives = False
    result = machine.is_asked()
    assert result is not None
    assert result.failure is not None
    assert "did not arrive" in result.failure.message
    assert machine.log[-3:] == ["thaw", f"start {LATE} postgresql.service", "heard of a failure"]
    assert "off" not in machine.log
    assert "postgresql.service" in machine.systemd.running
    assert not machine.settings.stopped_services.exists()


def test_an_answer_for_which_nobody_waits_keeps_the_machine_running(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    machine.server.state = CommandState.WITHDRAWN
    machine.is_asked()
    assert "off" not in machine.log
    assert machine.log[-2] == f"start {LATE} postgresql.service"


def test_an_answer_that_may_have_been_heard_is_not_taken_back(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    machine.server.away = Unreachable("away", remedy="")
    machine.is_asked()
    assert "off" in machine.log
    assert not any(line.startswith("start") for line in machine.log)


def test_a_machine_that_cannot_be_switched_off_at_once_ends_all_the_same(
    tmp_path: Path, no_systemd: List[Sequence[str]]
) -> None:
    machine = Machine(tmp_path)
    machine.off_fails = True
    machine.is_asked()
    assert no_systemd == [["--no-block", "poweroff"]]
    assert not any(line.startswith("start") for line in machine.log)


def test_a_systemd_that_does_not_answer_stops_nothing(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    machine.systemd.trouble = "systemctl list-units: timed out"
    machine.is_asked()
    assert machine.log == ["heard of a failure"]


@pytest.mark.parametrize("same_boot", [True, False])
def test_an_agent_that_died_on_the_way_is_followed_by_one_that_starts_the_services_again(
    tmp_path: Path, same_boot: bool
) -> None:
    machine = Machine(tmp_path)
    services = Services(machine.settings.stopped_services, machine.systemd)
    services.stop(5.0)
    if not same_boot:
        noted = json.loads(machine.settings.stopped_services.read_text())
        machine.settings.stopped_services.write_text(json.dumps({**noted, "boot": "another"}))
    machine.log.clear()
    machine.agent()
    assert machine.log == ([f"start {LATE} postgresql.service"] if same_boot else [])
    assert not machine.settings.stopped_services.exists()
