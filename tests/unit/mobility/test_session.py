"""Heartbeats: what should be is passed on, silence is told once, an upgrade's result goes where results go."""

from __future__ import annotations

import logging
import threading
import time
from pathlib import Path
from typing import Callable, List, Optional, Tuple

import pytest
from tests.unit.mobility.doubles import FakeClock

from farshore.api_types.commands import CommandResult, UpgradeResult
from farshore.api_types.machines import Desired, Heartbeat
from farshore.mobility.control.session import Session
from farshore.mobility.settings import Settings
from farshore.model.errors import Unreachable


class ServerDouble:
    """Answers heartbeats; ``away`` while it does not."""

    def __init__(self) -> None:
        self.away = False
        self.beats = 0
        self.app_consistent_every = 0

    def heartbeat(self, beat: Heartbeat) -> Desired:
        self.beats += 1
        if self.away:
            raise Unreachable("away", remedy="")
        assert beat.hears_commands
        return Desired(protect=True, app_consistent_every=self.app_consistent_every, heartbeat_every=7.0)


class ReplicationDouble:
    current: Optional[object] = None

    def __init__(self) -> None:
        self.wanted: List[Desired] = []

    def want(self, desired: Desired) -> None:
        self.wanted.append(desired)


class ReporterDouble:
    def heartbeat(self) -> Heartbeat:
        return Heartbeat(run="r", version="1", hears_commands=True)

    def answered(self, beat: Heartbeat) -> None:
        self.last_answered = beat


class UpgradesDouble:
    """``concluded`` is what a process before this one began, once the stream is there."""

    concluded: Optional[Tuple[str, CommandResult]] = None

    def conclude(self, *, wanted: bool) -> Optional[Tuple[str, CommandResult]]:
        concluded, self.concluded = self.concluded, None
        return concluded


class HandlingDouble:
    def __init__(self) -> None:
        self.finished_with: List[Tuple[str, str, CommandResult]] = []
        self.work: List[Callable[[], None]] = []
        self.sent_again = 0

    def finished(self, command: str, kind: str, result: CommandResult) -> None:
        self.finished_with.append((command, kind, result))

    def beside(self, work: Callable[[], None]) -> None:
        self.work.append(work)

    def send_again(self) -> None:
        self.sent_again += 1


class Rig:
    def __init__(self, state: Path) -> None:
        self.upgrades = UpgradesDouble()
        self.handling = HandlingDouble()
        self.server = ServerDouble()
        self.replication = ReplicationDouble()
        self.followed: List[str] = []
        self.session = Session(
            Settings(state=state),
            self.server,  # type: ignore[arg-type]
            self.replication,  # type: ignore[arg-type]
            ReporterDouble(),  # type: ignore[arg-type]
            FakeClock(),
            self.followed.append,
            self.upgrades,  # type: ignore[arg-type]
            self.handling,  # type: ignore[arg-type]
        )

    def beat(self) -> float:
        return self.session._beat(2.0)


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return Rig(tmp_path)


def test_the_server_says_what_should_be_and_when_to_come_again(rig: Rig) -> None:
    assert rig.beat() == 7.0
    assert rig.replication.wanted[-1].protect


def test_what_an_upgrade_came_to_is_said_as_any_result(rig: Rig) -> None:
    ended = CommandResult(payload=UpgradeResult(release="two"))
    rig.upgrades.concluded = ("u1", ended)
    rig.beat()
    rig.beat()
    assert rig.handling.finished_with == [("u1", "upgrade", ended)]


def test_results_are_said_again_when_the_server_answers(rig: Rig) -> None:
    rig.server.away = True
    rig.beat()
    assert rig.handling.sent_again == 0
    rig.server.away = False
    rig.beat()
    assert rig.handling.sent_again == 1


def test_points_of_the_policy_are_cut_beside_commands(rig: Rig) -> None:
    rig.replication.current = object()
    rig.server.app_consistent_every = 60
    rig.beat()
    rig.beat()
    assert len(rig.handling.work) == 1


def test_silence_is_told_once_and_so_is_its_end(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    rig.server.away = True
    pauses = [rig.beat() for _ in range(3)]
    rig.server.away = False
    rig.beat()
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]
    assert pauses == [4.0, 4.0, 4.0]


def test_heartbeats_go_on_where_the_status_file_cannot_be_written(tmp_path: Path) -> None:
    in_the_way = tmp_path / "a file where the folder should be"
    in_the_way.write_text("")
    rig = Rig(in_the_way)
    assert [rig.beat(), rig.beat()] == [7.0, 7.0]


def test_it_ends_when_told_to(rig: Rig) -> None:
    stop = threading.Event()
    thread = threading.Thread(target=rig.session.run, args=(stop,))
    thread.start()
    while not rig.server.beats:
        time.sleep(0.01)
    stop.set()
    rig.session.wake()
    thread.join(60)
    assert not thread.is_alive()


def test_a_machine_whose_stream_does_not_flow_asks_before_its_time(rig: Rig) -> None:
    class Run:
        reachable = True

    run = Run()
    rig.replication.current = run
    rig.session._soon.wait = lambda _seconds: False  # type: ignore[method-assign, assignment]
    waits: List[float] = []

    def waited(seconds: float) -> bool:
        waits.append(seconds)
        run.reachable = len(waits) < 2
        return False

    rig.session._soon.wait = waited  # type: ignore[method-assign, assignment]
    rig.session._rest(10.0)
    assert waits == [2.0, 2.0], "the other 6 s are not waited for"
    run.reachable = True
    rig.session._soon.wait = lambda seconds: bool(waits.append(seconds))  # type: ignore[method-assign, assignment, func-returns-value]
    rig.session._rest(7.0)
    assert waits[2:] == [2.0, 2.0, 2.0, 1.0]
