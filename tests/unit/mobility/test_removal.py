"""The agent takes itself off: all that is its own goes, what is others' stays and is named; it answers first."""

from __future__ import annotations

from pathlib import Path
from typing import Any, List, Optional, Sequence

import pytest
from tests.unit.mobility.test_commands import ReplicationDouble, ServerDouble, UpgradesDouble, shutdown_of

from farshore.api_types.commands import Command
from farshore.mobility.commands.handling import Handling
from farshore.mobility.commands.record import Record
from farshore.mobility.control.removal import Removal
from farshore.mobility.settings import Settings
from farshore.mobility.upgrade.releases import UNIT, Releases
from farshore.model.errors import Forbidden, Unreachable

GO = Command(id="g1", kind="uninstall")
MACHINE = "11111111-1111-4111-8111-111111111111"


class Installed:
    """A machine as a push leaves it, below a folder."""

    def __init__(self, folder: Path, *, service: bool = True, release: bool = True) -> None:
        self.settings = Settings(state=folder / "state")
        self.root, self.etc, self.units = folder / "opt", folder / "etc", folder / "units"
        self.cgroup = folder / "cgroup"
        self.cgroup.write_text(f"0::/system.slice/{UNIT if service else 'user.service'}\n")
        self.said: List[List[str]] = []
        self.trouble = ""
        self.ended = 0
        for file in (self.settings.credentials, self.settings.spill(MACHINE), self.settings.lock,
                     self.settings.proven, self.etc / "mobility.conf", self.units / UNIT,
                     self.root / "releases/r1/bin/farshore-mobility"):  # fmt: skip
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text("x")
        (self.etc / "app-consistent.d").mkdir()
        (self.root / "current").symlink_to("releases/r1")
        self.releases: Optional[Releases] = Releases(self.root, "r1") if release else None

    def removal(self) -> Removal:
        return Removal(
            self.settings,
            self.releases,
            self._end,
            options=self.etc,
            units=self.units,
            cgroup=self.cgroup,
            systemctl=self._systemctl,
        )

    def _end(self) -> None:
        self.ended += 1

    def _systemctl(self, arguments: Sequence[str]) -> str:
        self.said.append(list(arguments))
        return self.trouble


class Agent:
    """One process of the agent there."""

    def __init__(self, installed: Installed) -> None:
        self.server, self.removal = ServerDouble(), installed.removal()
        doubles: Any = (self.server, ReplicationDouble(), UpgradesDouble())
        self.handling = Handling(
            *doubles, Record(installed.settings.commands), self.removal, shutdown_of(installed.settings)
        )

    def offer(self, *commands: Command) -> None:
        self.handling.offered(commands)
        self.handling._one_by_one.submit(lambda: None).result(60)


def stays(agent: Agent) -> List[str]:
    payload: Any = agent.server.heard[0][1].payload
    return list(payload.stays)


def test_everything_of_the_agent_goes_and_the_service_ends(tmp_path: Path) -> None:
    there = Installed(tmp_path)
    agent = Agent(there)
    agent.offer(GO)
    assert stays(agent) == []
    assert (there.ended, agent.removal.heard) == (1, True)
    agent.removal.finish()
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["cgroup", "units"]
    assert list(there.units.iterdir()) == []
    assert there.said == [["disable", "--quiet", UNIT], ["daemon-reload"], ["--no-block", "stop", UNIT]]


def test_what_an_answer_needs_stays_until_it_is_heard(tmp_path: Path) -> None:
    there = Installed(tmp_path)
    agent = Agent(there)
    agent.server.away = Unreachable("away", remedy="")
    agent.offer(GO)
    assert there.settings.credentials.exists()
    assert not there.settings.spill(MACHINE).exists()
    assert there.ended == 0
    agent.server.away = None
    agent.handling.send_again()
    assert there.ended == 1


def test_a_server_that_lets_it_in_no_more_has_heard_enough(tmp_path: Path) -> None:
    there = Installed(tmp_path)
    agent = Agent(there)
    agent.server.away = Forbidden("revoked", remedy="")
    agent.offer(GO)
    assert there.ended == 1


def test_the_next_process_goes_on_where_one_was_killed(tmp_path: Path) -> None:
    there = Installed(tmp_path)
    there.removal().carry_out()  # and it was killed before it could answer
    agent = Agent(there)
    agent.offer(GO)
    assert stays(agent) == []
    assert there.ended == 1


def test_what_others_put_there_stays_and_is_named(tmp_path: Path) -> None:
    there = Installed(tmp_path)
    (there.etc / "app-consistent.d/10-database").write_text("mine")
    (there.root / "server").mkdir()
    agent = Agent(there)
    agent.offer(GO)
    assert stays(agent) == [
        f"{there.etc}/app-consistent.d: hooks of yours (10-database)",
        f"{there.etc}: files of others (app-consistent.d)",
        f"{there.root}: files of others (server)",
    ]
    agent.removal.finish()
    assert (there.etc / "app-consistent.d/10-database").read_text() == "mine"
    assert not (there.root / "releases").exists()


@pytest.mark.parametrize("release", [True, False])
def test_a_process_that_is_not_the_service_leaves_the_unit_alone(tmp_path: Path, release: bool) -> None:
    there = Installed(tmp_path, service=False, release=release)
    agent = Agent(there)
    agent.offer(GO)
    agent.removal.finish()
    said = " ".join(stays(agent))
    assert "farshore-mobility.service did not start this process" in said
    assert ("not installed as a release" in said) is not release
    assert (there.units / UNIT).exists()
    assert there.said == []
    assert not there.settings.state.exists()


def test_what_could_not_be_done_is_said(tmp_path: Path) -> None:
    there = Installed(tmp_path)
    there.trouble = "Failed to connect to bus"
    agent = Agent(there)
    agent.offer(GO)
    assert stays(agent) == [f"{UNIT} could not be disabled: Failed to connect to bus"]
    assert not (there.units / UNIT).exists()
