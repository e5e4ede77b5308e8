"""Commands in the agent: each carried out once, over cut streams and restarts; its result said until it is heard."""

from __future__ import annotations

import contextlib
import logging
import threading
from pathlib import Path
from typing import Any, ClassVar, Dict, Iterator, List, Optional, Sequence, Tuple

import pytest
from tests.unit.mobility.doubles import FakeClock

from farshore.api_types.commands import Command, CommandResult, CommandStanding, UpgradeArguments
from farshore.mobility.commands.fetching import Fetching
from farshore.mobility.commands.handling import Handling
from farshore.mobility.commands.record import Record
from farshore.mobility.control.removal import Removal
from farshore.mobility.control.shutdown import Shutdown
from farshore.mobility.points.services import Services
from farshore.mobility.settings import Settings
from farshore.model.commands import CommandKind, CommandState
from farshore.model.errors import FarshoreError, NotFound, TryLater, Unreachable

RESYNC = Command(id="r1", kind="resync")
POINT = Command(id="p1", kind="point", arguments={"kind": "crash-consistent", "name": "n"})
UPGRADE = Command(id="u1", kind="upgrade", arguments={"release": "two", "digest": "d"})


class ServerDouble:
    """Hears results unless it is ``away``; ``streams`` are what the next calls of ``commands`` bring."""

    def __init__(self) -> None:
        self.away: Optional[FarshoreError] = None
        self.heard: List[Tuple[str, CommandResult]] = []
        self.streams: List[List[Any]] = []

    def answer(self, command: str, result: CommandResult) -> CommandStanding:
        if self.away is not None:
            raise self.away
        self.heard.append((command, result))
        return CommandStanding(id=command, state=CommandState.SUCCEEDED)

    @contextlib.contextmanager
    def commands(self, run: str, epoch: int, hardware: str) -> Iterator[Iterator[Sequence[Command]]]:
        assert (run, epoch, hardware) == ("run", 7, "hw")
        yield self._lines(self.streams.pop(0))

    def _lines(self, stream: List[Any]) -> Iterator[Sequence[Command]]:
        for one in stream:
            if isinstance(one, FarshoreError):
                raise one
            if callable(one):
                one()
            else:
                yield one


class ReplicationDouble:
    current: Optional[object] = None
    disks: Sequence[object] = ()

    def __init__(self) -> None:
        self.resyncs = 0
        self.may_go_on = threading.Event()
        self.may_go_on.set()

    def resync(self) -> None:
        assert self.may_go_on.wait(60)
        self.resyncs += 1


class UpgradesDouble:
    def __init__(self, under_way: Optional[str] = None) -> None:
        self.under_way = under_way
        self.carried_out: List[Tuple[str, str]] = []

    def carry_out(self, command: str, wanted: UpgradeArguments) -> None:
        self.carried_out.append((command, wanted.release))


def shutdown_of(settings: Settings) -> Shutdown:
    """Of an agent whose machine is not its own."""
    return Shutdown(Services(settings.stopped_services), ours=lambda: False)


class Agent:
    """One process of the agent; the next one is another Agent with the same folder."""

    def __init__(self, folder: Path, under_way: Optional[str] = None) -> None:
        self.server, self.replication = ServerDouble(), ReplicationDouble()
        self.upgrades = UpgradesDouble(under_way)
        doubles: Any = (self.server, self.replication, self.upgrades)
        self.record = Record(folder / "commands.json")
        settings = Settings(state=folder)
        self.handling = Handling(*doubles, self.record, Removal(settings, None, lambda: None), shutdown_of(settings))
        self.clock = FakeClock()
        self.fetching = Fetching(doubles[0], self.handling, "run", lambda: 7, self.clock, "hw")

    def offer(self, *commands: Command) -> None:
        """Offered, and carried out."""
        self.handling.offered(commands)
        self.settle()

    def settle(self) -> None:
        self.handling._one_by_one.submit(lambda: None).result(60)

    @property
    def failures(self) -> Dict[str, str]:
        return {command: result.failure.message for command, result in self.server.heard if result.failure}


@pytest.fixture
def agent(tmp_path: Path) -> Agent:
    return Agent(tmp_path)


def test_a_command_is_carried_out_once_though_it_is_offered_again(agent: Agent) -> None:
    agent.offer(RESYNC)
    agent.offer(RESYNC)
    agent.offer()
    assert agent.replication.resyncs == 1
    assert [(command, result.failure) for command, result in agent.server.heard] == [("r1", None)]


def test_a_result_is_said_until_it_is_heard(agent: Agent) -> None:
    agent.server.away = Unreachable("away", remedy="")
    agent.offer(RESYNC)
    agent.handling.send_again()
    agent.server.away = None
    agent.offer(RESYNC)
    agent.handling.send_again()
    agent.handling.send_again()
    assert [command for command, _ in agent.server.heard] == ["r1"]
    assert agent.replication.resyncs == 1


def test_a_result_that_nobody_knows_of_any_more_is_forgotten(agent: Agent) -> None:
    agent.server.away = NotFound("no such command", remedy="")
    agent.offer(RESYNC)
    assert agent.record.results() == {}


def test_what_was_withdrawn_before_it_began_is_not_begun(agent: Agent) -> None:
    agent.replication.may_go_on.clear()
    later = Command(id="r2", kind="resync")
    agent.handling.offered([RESYNC, later])
    agent.handling.offered([RESYNC])
    agent.replication.may_go_on.set()
    agent.settle()
    assert agent.replication.resyncs == 1
    agent.offer(later)
    assert agent.replication.resyncs == 2, "it was offered again after all"


def test_a_command_that_is_not_understood_fails_alone(agent: Agent) -> None:
    odd = Command(id="x", kind="dance")
    more = Command(id="y", kind="resync", arguments={"slowly": True})
    agent.offer(odd, more, UPGRADE)
    assert set(agent.failures) == {"x", "y"}
    remedies = {result.failure.remedy for _, result in agent.server.heard if result.failure}
    assert remedies == {"Upgrade it with `farshore machine upgrade`, then repeat the command."}
    assert agent.upgrades.carried_out == [("u1", "two")]
    assert agent.replication.resyncs == 0


def test_a_point_that_cannot_be_cut_says_what_to_do(agent: Agent) -> None:
    agent.offer(POINT)
    failure = agent.server.heard[0][1].failure
    assert failure is not None
    assert (failure.code, "Wait until the copy is complete" in failure.remedy) == ("try-later", True)


def test_a_result_outlives_the_agent_and_the_command_is_not_done_again(agent: Agent, tmp_path: Path) -> None:
    agent.server.away = Unreachable("away", remedy="")
    agent.offer(RESYNC)
    after = Agent(tmp_path)
    after.offer(RESYNC)
    after.handling.send_again()
    assert [command for command, _ in after.server.heard] == ["r1"]
    assert after.replication.resyncs == 0
    assert Agent(tmp_path).record.results() == {}, "what was heard is not kept"


@pytest.mark.parametrize(("kind", "again"), [(CommandKind.RESYNC, 1), (CommandKind.POINT, 0)])
def test_what_was_cut_off_is_done_again_where_that_does_no_harm(
    agent: Agent, tmp_path: Path, kind: CommandKind, again: int
) -> None:
    agent.record.begin("c", kind)  # and the agent was killed
    after = Agent(tmp_path)
    after.offer(Command(id="c", kind=kind.value))
    after.handling.send_again()
    assert after.replication.resyncs == again
    ((command, result),) = after.server.heard
    assert command == "c"
    assert (result.failure is None) == bool(again)
    assert again or "it is unknown whether" in after.failures["c"]


def test_a_command_is_noted_before_it_begins(agent: Agent, tmp_path: Path) -> None:
    class Looked:
        """The stream that the point is asked of: it looks at what a process that came now would know."""

        noted: ClassVar[Dict[str, CommandResult]] = {}

        @property
        def consistent(self) -> bool:
            Looked.noted = Record(tmp_path / "commands.json").results()
            return False

    agent.replication.current = Looked()
    agent.offer(POINT)
    assert set(Looked.noted) == {"p1"}


def test_an_upgrade_that_another_process_began_is_not_begun_again(tmp_path: Path) -> None:
    agent = Agent(tmp_path, under_way="u1")
    agent.offer(UPGRADE)
    assert agent.upgrades.carried_out == []
    agent.offer()
    agent.offer(Command(id="u2", kind="upgrade", arguments={"release": "three", "digest": "d"}))
    assert agent.upgrades.carried_out == [("u2", "three")]


def test_commands_are_carried_out_though_nothing_can_be_noted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    agent = Agent(tmp_path / "not there")
    agent.offer(RESYNC, Command(id="r2", kind="resync"))
    assert agent.replication.resyncs == 2
    assert (
        len([record for record in caplog.records if "after a restart the agent does not know" in record.message]) == 1
    )


@pytest.mark.parametrize("text", ["", "{", '{"format": 2}', '{"format": 1, "commands": {"c": {}}}', "[1]"])
def test_a_record_that_is_not_understood_is_left_aside(tmp_path: Path, text: str) -> None:
    (tmp_path / "commands.json").write_text(text)
    (tmp_path / "commands.json").chmod(0o600)
    agent = Agent(tmp_path)
    agent.offer(RESYNC)
    assert agent.replication.resyncs == 1


def test_each_line_of_a_stream_is_obeyed_and_a_stream_that_was_held_is_opened_at_once(agent: Agent) -> None:
    def hour() -> None:
        agent.clock.move(3600)

    agent.server.streams = [[[], [RESYNC], hour, []], [[], hour, Unreachable("cut", remedy="")]]
    assert agent.fetching.fetch() == 0.0
    agent.settle()
    assert agent.replication.resyncs == 1
    assert agent.fetching.fetch() == 0.0


def test_streams_that_end_soon_are_opened_with_growing_pauses_and_told_once(
    agent: Agent, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    agent.server.streams = [[Unreachable("no", remedy="")] for _ in range(8)]
    pauses = [agent.fetching.fetch() for _ in range(8)]
    assert 0.5 <= pauses[0] <= 1.5
    assert all(5.0 <= pause <= 15.0 for pause in pauses[5:])
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    agent.server.streams = [[[]], [TryLater("busy", remedy="", after=30.0)]]
    assert 0.5 <= agent.fetching.fetch() <= 1.5, "it was heard in between"
    assert caplog.records[-1].message == "The stream of commands works again."
    assert agent.fetching.fetch() >= 15.0
