"""A master target carries errands out: once each, as long as they are wanted, with the keys of their machine."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.waiting import until

from farshore.api_types.master_targets import (
    ErrandClaim,
    ErrandProgress,
    ErrandResult,
    ErrandStanding,
    HomeErrand,
    PlacedDisk,
)
from farshore.api_types.servers import ChunkKeys, MachineKeys
from farshore.master_target import errands as working
from farshore.master_target.errands import Errands
from farshore.master_target.record import RecordFolder
from farshore.model.errors import FarshoreError, Forbidden, NotFound, Refused, TryLater, Unreachable
from farshore.model.home_task import DiskPlace, DomainKeys, Errand, HeldKeys, HomeTask

PLACES = [PlacedDisk(disk=0, path="/dev/sdb"), PlacedDisk(disk=1, path="/srv/x", image="qcow2")]


class Server:
    """The configuration server."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.details: list[str] = []
        self.results: list[ErrandResult] = []
        self.wanted, self.away = True, False
        self.missed = 0
        self.domains = [0]
        self.refused: FarshoreError | None = None

    def begin_errand(self, errand: str, claim: ErrandClaim) -> HomeErrand:
        self._here()
        assert claim.run
        if errand == "unknown":
            raise NotFound("No.", remedy="-")
        self.begun.append(errand)
        return HomeErrand(errand="finish", failover="f1", machine="m", places=PLACES, position="1:7")

    def keys(self, machine: str) -> MachineKeys:
        self._here()
        if self.refused is not None:
            raise self.refused
        chunks = [ChunkKeys(domain=one, seal="0b", hash="0c") for one in self.domains]
        return MachineKeys(machine=machine, key="c0ffee", chunks=chunks)

    def note_errand(self, errand: str, progress: ErrandProgress) -> ErrandStanding:
        self._here()
        self.details.append(progress.detail)
        return ErrandStanding(wanted=self.wanted)

    def end_errand(self, errand: str, result: ErrandResult) -> ErrandStanding:
        self._here()
        self.results.append(result)
        return ErrandStanding(wanted=True)

    def _here(self) -> None:
        if self.away:
            self.missed += 1
            raise Unreachable("It is away.", remedy="-")


class Work:
    """The process of one errand."""

    def __init__(self, world: World, task: HomeTask, told: Callable[[float, str], None]) -> None:
        self._world, self._told, self._ended = world, told, False
        world.tasks.append(task)

    def run(self) -> tuple[int, int]:
        self._told(0.5, "half way")
        while not self._world.go_on.wait(0.01):
            if self._ended:
                raise TryLater("broken off", remedy="-")
        if self._world.failures:
            raise self._world.failures.pop(0)
        return 10, 5

    def end(self) -> None:
        self._ended = True
        self._world.ended += 1


class World:
    def __init__(self, state: Path) -> None:
        self.server, self.state = Server(), state
        self.tasks: list[HomeTask] = []
        self.failures: list[FarshoreError] = []
        self.go_on = threading.Event()
        self.ended = 0
        self.errands = self.again()

    def again(self) -> Errands:
        """Another start of the program."""
        return Errands(self.server, "file:///vault", "0a", self.state, lambda task, told: Work(self, task, told))

    def result(self) -> ErrandResult:
        return until(lambda: self.server.results, "a result")[-1]


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[World]:
    monkeypatch.setattr(working, "BEAT_SECONDS", 0.01)
    monkeypatch.setattr(working, "RETRY_SECONDS", 0.01)
    made = World(tmp_path)
    yield made
    made.server.away = False
    made.errands.stop()


def test_it_does_what_it_is_told_and_tells_how_far_it_is(world: World, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    world.errands.offered(["e1"])
    until(lambda: "half way" in world.server.details, "progress")
    world.errands.offered(["e1"])
    world.go_on.set()
    assert (world.result().compared, world.result().written) == (10, 5)
    places = (DiskPlace(0, "/dev/sdb"), DiskPlace(1, "/srv/x", "qcow2"))
    keys = HeldKeys("0a", "c0ffee", (DomainKeys(0, "0b", "0c"),))
    task = HomeTask(Errand.FINISH, "file:///vault", "m", str(world.state / "f1"), places, keys, "1:7")
    assert world.tasks == [task], "offered twice, it is begun once"
    assert "c0ffee" not in caplog.text


def test_a_failure_is_told(world: World) -> None:
    world.failures = [Refused("It is mounted.", remedy="Unmount it.")]
    world.go_on.set()
    world.errands.offered(["e1"])
    said = world.result().failure
    assert said is not None
    assert (said.code, said.message, said.remedy) == ("refused", "It is mounted.", "Unmount it.")


def test_keys_that_it_may_not_have_are_a_failure(world: World) -> None:
    world.server.refused = Forbidden("They were erased.", remedy="-")
    world.errands.offered(["e1"])
    said = world.result().failure
    assert said is not None
    assert said.code == "forbidden"


def test_keys_of_a_domain_that_began_since_are_fetched_once_more(world: World) -> None:
    world.failures = [Forbidden("no key of domain 9", remedy="-"), Forbidden("no key of domain 11", remedy="-")]
    world.errands.offered(["e1"])
    until(lambda: world.tasks, "the first task")
    world.server.domains = [0, 9]
    world.go_on.set()
    said = world.result().failure
    assert said is not None, "with the same keys there is no third try"
    assert said.message == "no key of domain 11"
    assert [len(task.keys.chunks) for task in world.tasks] == [1, 2]


def test_one_that_is_not_wanted_ends(world: World) -> None:
    world.errands.offered(["e1"])
    until(lambda: world.server.details, "progress")
    world.server.wanted = False
    until(lambda: world.ended, "the end")
    world.errands.stop()
    assert world.server.results == []


def test_one_of_which_nothing_is_heard_is_broken_off_and_goes_on_later(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.errands.offered(["e1"])
    until(lambda: world.server.details, "progress")
    world.server.away = True
    until(lambda: world.server.missed >= 3, "calls that failed")
    assert not world.ended, "the server may just be starting"
    monkeypatch.setattr(working, "UNHEARD_SECONDS", 0.0)
    until(lambda: world.ended, "the end")
    world.server.away = False
    world.go_on.set()

    def offered_until_done() -> bool:
        world.errands.offered(["e1"])
        return bool(world.server.results)

    until(offered_until_done, "the result")
    assert world.server.begun[:2] == ["e1", "e1"]


def test_a_result_is_told_until_it_is_heard(world: World) -> None:
    world.errands.offered(["e1"])
    until(lambda: world.server.details, "progress")
    world.server.away = True
    world.go_on.set()
    until(lambda: world.server.missed >= 3, "calls that failed")
    world.server.away = False
    assert world.result().written == 5


def test_what_it_does_not_know_any_more_harms_nothing(world: World) -> None:
    world.errands.offered(["unknown"])
    world.go_on.set()
    world.errands.offered(["e1"])
    assert world.result().failure is None


def test_another_start_goes_on(world: World) -> None:
    world.errands.offered(["e1"])
    until(lambda: world.server.details, "progress")
    world.errands.stop()
    assert (world.ended, world.server.results) == (1, [])
    world.errands = world.again()
    world.go_on.set()
    world.errands.offered(["e1"])
    assert world.result().failure is None
    assert world.server.begun == ["e1", "e1"]


def test_records_that_nobody_needs_are_forgotten_but_not_one_in_use(world: World) -> None:
    for name in ("f1", "f2"):
        RecordFolder(world.state / name).ask_to_finish(None)
    assert world.errands.held() == ["f1", "f2"]
    with RecordFolder(world.state / "f2").locked():
        world.errands.forget(["f1", "f2", "f3", "../f1"])
        assert world.errands.held() == ["f2"]
    world.errands.forget(["f2"])
    assert world.errands.held() == []
