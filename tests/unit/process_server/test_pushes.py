"""A process server carries out pushes: once each, as long as they are wanted, with nothing of them on its disk."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.unit.push.test_sealed_target import TARGET
from tests.waiting import until

from farshore.api_types.pushes import AgentRelease, PushClaim, PushProgress, PushResult, PushStanding, SealedPush
from farshore.model.errors import Damaged, FarshoreError, NotFound, Refused, Unreachable
from farshore.process_server.pushing import pushes as pushing
from farshore.process_server.pushing.pushes import Pushes
from farshore.process_server.pushing.releases import Releases
from farshore.protection.installation import PushTarget, Reporter
from farshore.protection.push.sealed_target import seal


class Source:
    """The configuration server."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.details: list[str] = []
        self.results: list[PushResult] = []
        self.wanted, self.away = True, False
        self.missed = 0

    def begin_push(self, push: str, claim: PushClaim) -> SealedPush:
        self._here()
        if push == "unknown":
            raise NotFound("No.", remedy="-")
        self.begun.append(push)
        return SealedPush(sealed=seal(TARGET, push, bytes.fromhex(claim.key)).hex())

    def note_push(self, push: str, progress: PushProgress) -> PushStanding:
        self._here()
        self.details.append(progress.detail)
        return PushStanding(wanted=self.wanted)

    def end_push(self, push: str, result: PushResult) -> PushStanding:
        self._here()
        self.results.append(result)
        return PushStanding(wanted=True)

    def _here(self) -> None:
        if self.away:
            self.missed += 1
            raise Unreachable("It is away.", remedy="-")


class Installer:
    def __init__(self) -> None:
        self.targets: list[PushTarget] = []
        self.go_on = threading.Event()
        self.failures: list[Exception] = []
        self.broken_off = 0

    async def __call__(self, target: PushTarget, report: Reporter) -> str:
        self.targets.append(target)
        report(0.5, "half way")
        try:
            while not self.go_on.is_set():  # noqa: ASYNC110 - it is set from another thread
                await asyncio.sleep(0.01)
        except asyncio.CancelledError:
            self.broken_off += 1
            raise
        if target.jump is not None:
            target.jump.seen("SHA256:gate")
        if self.failures:
            raise self.failures.pop(0)
        return "SHA256:shown"


class World:
    def __init__(self) -> None:
        self.source, self.installer = Source(), Installer()
        self.pushes = Pushes(self.source, self.installer)

    def offer(self, *ids: str) -> None:
        self.pushes.offered(ids)

    def result(self) -> PushResult:
        return until(lambda: self.source.results, "a result")[-1]


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.setattr(pushing, "BEAT_SECONDS", 0.01)
    monkeypatch.setattr(pushing, "RETRY_SECONDS", 0.01)
    made = World()
    yield made
    made.source.away = False
    made.pushes.stop()


def test_it_installs_tells_how_far_and_what_came_of_it(world: World, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    world.offer("p1")
    until(lambda: "half way" in world.source.details, "progress")
    world.offer("p1")
    world.installer.go_on.set()
    assert (world.result().host_key, world.result().jump_key) == ("SHA256:shown", "SHA256:gate")
    assert world.installer.targets == [TARGET], "offered twice, it is begun once"
    assert "very secret" not in caplog.text
    assert "one-time" not in caplog.text


def test_a_failure_is_told(world: World) -> None:
    world.installer.failures = [Refused("There is no sudo.", remedy="Use root.")]
    world.installer.go_on.set()
    world.offer("p1")
    said = world.result().failure
    assert said is not None
    assert (said.code, said.message, said.remedy) == ("refused", "There is no sudo.", "Use root.")


def test_a_defect_is_a_failure_without_its_words(world: World) -> None:
    world.installer.failures = [ValueError("very secret")]
    world.installer.go_on.set()
    world.offer("p1")
    said = world.result().failure
    assert said is not None
    assert said.code == "damaged"
    assert "secret" not in said.message


def test_what_is_not_wanted_any_more_is_broken_off(world: World) -> None:
    world.offer("p1")
    until(lambda: world.source.details, "progress")
    world.source.wanted = False
    until(lambda: world.installer.broken_off, "it goes on")
    until(lambda: not world.pushes._under_way, "it does not end")
    assert world.source.results == []


def test_an_end_of_the_server_breaks_off_and_tells_nothing(world: World) -> None:
    world.offer("p1", "p2")
    until(lambda: len(world.installer.targets) == 2, "both begin")
    world.pushes.stop()
    assert world.installer.broken_off == 2
    assert world.source.results == []
    world.offer("p3")
    assert "p3" not in world.source.begun


def test_one_that_cannot_be_begun_is_begun_when_it_is_offered_again(world: World) -> None:
    world.installer.go_on.set()
    world.source.away = True
    world.offer("p1", "unknown")
    until(lambda: world.source.missed >= 2 and not world.pushes._under_way, "both are tried")
    world.source.away = False
    world.offer("p1", "unknown")
    world.result()
    assert world.source.begun == ["p1"]


def test_what_failed_while_the_configuration_server_was_away_is_done_once_more(world: World) -> None:
    world.installer.failures = [Refused("It does not enrol.", remedy="-")]
    world.offer("p1")
    until(lambda: world.source.details, "progress")
    world.source.away = True
    until(lambda: world.source.missed, "it is missed")
    world.installer.go_on.set()
    until(lambda: not world.installer.failures, "the first attempt fails")
    assert len(world.installer.targets) == 1, "the second waits"
    world.source.away = False
    assert world.result().failure is None
    assert len(world.installer.targets) == 2


def test_a_result_is_told_until_it_is_heard(world: World) -> None:
    world.offer("p1")
    until(lambda: world.source.details, "progress")
    world.source.away = True
    world.installer.go_on.set()
    missed = world.source.missed
    until(lambda: world.source.missed > missed + 3, "it is told")
    world.source.away = False
    assert world.result().host_key == "SHA256:shown"


class Maker:
    """Where releases come from."""

    def __init__(self) -> None:
        self.release, self.data = "0.1.0-python3.11-abc", b"a bundle"
        self.digest = hashlib.sha256(self.data).hexdigest()
        self.fetched: list[str] = []

    def agent_release(self, python: str) -> AgentRelease:
        assert python == "3.11"
        return AgentRelease(release=self.release, digest=self.digest)

    def agent_bundle(self, release: str) -> bytes:
        self.fetched.append(release)
        return self.data


def test_a_release_is_fetched_once_and_takes_the_place_of_the_one_before(tmp_path: Path) -> None:
    maker = Maker()
    releases = Releases(maker, tmp_path / "agents")
    assert releases((3, 11)).path.read_bytes() == b"a bundle"
    releases((3, 11))
    assert len(maker.fetched) == 1
    maker.release, maker.data = "0.1.0-python3.11-def", b"another"
    maker.digest = hashlib.sha256(maker.data).hexdigest()
    assert releases((3, 11)).release == maker.release
    assert [path.name for path in (tmp_path / "agents").iterdir()] == ["mobility-0.1.0-python3.11-def.tar.gz"]


def test_a_damaged_release_is_not_installed(tmp_path: Path) -> None:
    maker = Maker()
    releases = Releases(maker, tmp_path)
    releases((3, 11)).path.write_bytes(b"rotten")
    assert releases((3, 11)).path.read_bytes() == b"a bundle", "a rotten file is fetched again"
    maker.digest = "00" * 32
    with pytest.raises(Damaged):
        releases((3, 11))


@pytest.mark.parametrize("release", ["../x", "", "/etc/passwd"])
def test_a_release_of_no_name_goes_nowhere(tmp_path: Path, release: str) -> None:
    maker = Maker()
    maker.release = release
    with pytest.raises(FarshoreError):
        Releases(maker, tmp_path / "agents")((3, 11))
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
