"""Heartbeats and commands: each command once, its result until it is heard, silence told once."""

from __future__ import annotations

import logging
import threading
import time
from pathlib import Path
from typing import List, Optional, Sequence

import pytest
from tests.unit.mobility.doubles import FakeClock

from farshore.api_types.machines import Command, CommandKind, CommandResult, Desired, Heartbeat
from farshore.mobility.session import Session
from farshore.mobility.settings import Settings
from farshore.model.errors import Unreachable


class ServerDouble:
    """Answers heartbeats; ``away`` while it does not."""

    def __init__(self) -> None:
        self.commands: List[Command] = []
        self.heard: List[CommandResult] = []
        self.away = False
        self.beats = 0

    def heartbeat(self, beat: Heartbeat) -> Desired:
        self.beats += 1
        if self.away:
            raise Unreachable("away", remedy="")
        self.heard += beat.results
        done = {result.id for result in self.heard}
        self.commands = [command for command in self.commands if command.id not in done]
        return Desired(protect=True, commands=self.commands, heartbeat_every=7.0)


class ReplicationDouble:
    current: Optional[object] = None
    disks: Sequence[object] = ()

    def __init__(self) -> None:
        self.wanted: List[Desired] = []
        self.resyncs = 0

    def want(self, desired: Desired) -> None:
        self.wanted.append(desired)

    def resync(self) -> None:
        self.resyncs += 1


class ReporterDouble:
    def heartbeat(self, results: Sequence[CommandResult]) -> Heartbeat:
        return Heartbeat(run="r", version="1", results=list(results))

    def answered(self, beat: Heartbeat) -> None:
        self.last_answered = beat


class UpgradesDouble:
    """``result`` is what a process before this one began, once the stream is there."""

    def __init__(self) -> None:
        self.under_way: Optional[str] = None
        self.result: Optional[CommandResult] = None
        self.carried_out: List[str] = []

    def carry_out(self, command: Command) -> CommandResult:
        self.carried_out.append(command.id)
        return CommandResult(id=command.id)

    def conclude(self, *, wanted: bool) -> Optional[CommandResult]:
        result, self.result = self.result, None
        return result


class Rig:
    def __init__(self, state: Path, upgrades: Optional[UpgradesDouble] = None) -> None:
        self.upgrades = upgrades or UpgradesDouble()
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
            self.upgrades,
        )

    def beat(self) -> float:
        seconds = self.session._beat(2.0)
        self.session._commands.submit(lambda: None).result(10)  # until the commands given are carried out
        return seconds


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return Rig(tmp_path)


def test_the_server_says_what_should_be_and_when_to_come_again(rig: Rig) -> None:
    assert rig.beat() == 7.0
    assert rig.replication.wanted[-1].protect


def test_a_command_is_carried_out_once_and_told_until_heard(rig: Rig) -> None:
    rig.server.commands = [Command(id="c1", kind=CommandKind.RESYNC)]
    rig.beat()
    assert rig.replication.resyncs == 1
    rig.server.away = True
    rig.beat()
    rig.server.away = False
    rig.beat()
    rig.beat()
    assert rig.replication.resyncs == 1
    assert [(result.id, result.error) for result in rig.server.heard] == [("c1", "")]


def test_a_point_that_cannot_be_cut_is_told_with_what_to_do(rig: Rig) -> None:
    rig.server.commands = [Command(id="c1", kind=CommandKind.POINT)]
    rig.beat()
    rig.beat()
    assert "Wait for the copy to end" in rig.server.heard[0].error


def test_an_upgrade_that_another_process_began_is_not_begun_again_and_its_result_is_told(tmp_path: Path) -> None:
    upgrades = UpgradesDouble()
    upgrades.under_way = "u1"
    rig = Rig(tmp_path, upgrades)
    rig.server.commands = [Command(id="u1", kind=CommandKind.UPGRADE, release="two", digest="d")]
    rig.beat()
    assert upgrades.carried_out == []
    upgrades.result = CommandResult(id="u1")
    rig.beat()
    rig.beat()
    assert [result.id for result in rig.server.heard] == ["u1"]
    rig.server.commands = [Command(id="u2", kind=CommandKind.UPGRADE, release="three", digest="d")]
    rig.beat()
    assert upgrades.carried_out == ["u2"]


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
    thread.join(10)
    assert not thread.is_alive()
