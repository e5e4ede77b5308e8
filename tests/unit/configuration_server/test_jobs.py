"""Jobs in the real engine: their steps as users see them, secrets that must not stay, work that is not done twice."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from dbos import DBOS
from tests.unit.configuration_server.offices import MovableClock
from tests.unit.protection.catalogs import NOW, description, fresh_catalog
from tests.waiting import until

from farshore.api_types.jobs import Job
from farshore.catalog import events, machines, secrets, tokens
from farshore.catalog.database import Catalog
from farshore.catalog.tables import SecretRow
from farshore.configuration_server.jobs.engine import JobEngine
from farshore.configuration_server.jobs.push import PUSH, PushParts, push_job
from farshore.configuration_server.push_secrets import as_secret
from farshore.configuration_server.sealing import SecretSealer
from farshore.durable.jobs import JobDefinition, Request, Result
from farshore.durable.outcomes import ENDED
from farshore.durable.progress import report_progress
from farshore.model.errors import NotFound, Refused, Unsupported, WrongKey
from farshore.model.identifiers import JobId
from farshore.model.states import JobState
from farshore.protection.enrolment import enrol
from farshore.protection.installation import JumpHost, PushTarget, Reporter
from farshore.protection.push.signing import ReleaseKey

KEY = "-----BEGIN OPENSSH PRIVATE KEY-----\nvery secret\n"


class Installer:
    """Enrols as an agent would, or fails."""

    def __init__(self, catalog: Catalog) -> None:
        self.catalog = catalog
        self.targets: list[PushTarget] = []
        self.failure: Exception | None = None

    def __call__(self, target: PushTarget, report: Reporter) -> str:
        self.targets.append(target)
        report(0.5, "half way")
        if self.failure is not None:
            raise self.failure
        with self.catalog.writing() as tx:
            enrol(tx, target.token, description(), NOW).last_seen = NOW
        return "SHA256:shown"


class World:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.catalog = fresh_catalog(folder)
        self.installer = Installer(self.catalog)
        self.sealer = SecretSealer(bytes(32))
        self.ran: list[str] = []
        self.go_on = False
        release_key = ReleaseKey(folder / "release", folder / "release" / "release.key")
        release_key.ensure()
        parts = PushParts(self.catalog, MovableClock(), self.sealer, lambda: "f" * 64, self.installer, release_key)
        self.engine = JobEngine(f"sqlite:///{folder / 'jobs.sqlite'}", [push_job(parts), self.stepwise()])
        self.engine.launch()

    def stepwise(self) -> JobDefinition:
        @DBOS.step(name="first")
        def first() -> None:
            self.ran.append("first")

        @DBOS.step(name="second")
        def second() -> None:
            report_progress(0.5, "in the middle")
            while not self.go_on:
                time.sleep(0.02)

        @DBOS.workflow(name="stepwise")
        def run(request: Request) -> Result:
            first()
            second()
            if request.get("fail"):
                raise Refused("It was told to fail.", remedy="Tell it not to.")
            return {"done": True}

        return JobDefinition("stepwise", run, ("first", "second", "third"))

    def until(self, job: str, what: Callable[[Job], bool]) -> Job:
        until(lambda: what(self.engine.show(JobId(job))), f"job {job}")
        return self.engine.show(JobId(job))

    def ended(self, job: str) -> Job:
        return self.until(job, lambda found: found.state in ENDED)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    logging.getLogger("dbos").setLevel(logging.ERROR)  # a test defines its jobs anew, which DBOS warns of
    made = World(tmp_path)
    yield made
    made.go_on = True
    made.engine.close()
    made.catalog.close()


def push(world: World) -> Job:
    with world.catalog.writing() as tx:
        secrets.keep(tx, SecretRow(id="s1", sealed=world.sealer.seal("s1", KEY.encode()), created=NOW))
    asked: dict[str, Any] = {"host": "192.0.2.1", "port": 22, "user": "root", "host_key_fingerprint": "", "name": "web"}
    asked |= {"policy": "default", "protect": True, "server_url": "https://10.0.2.2", "disks": []}
    job = world.engine.start(PUSH, {"subject": "192.0.2.1", "secret": "s1", "actor": "user/a", "request": asked})
    return world.ended(job.id)


def left_on_disk(world: World) -> bytes:
    return b"".join(path.read_bytes() for path in world.folder.iterdir() if path.is_file())


def test_a_push_installs_and_forgets_the_key(world: World) -> None:
    job = push(world)
    assert (job.state, job.result["name"], job.fraction) == (JobState.SUCCEEDED, "web", 1.0)
    (target,) = world.installer.targets
    assert (target.private_key, target.authority_fingerprint) == (KEY, "f" * 64)
    assert "very secret" not in repr(target)
    assert target.token not in repr(target)
    with world.catalog.reading() as tx:
        assert secrets.host_key(tx, "192.0.2.1:22") == "SHA256:shown"
        with pytest.raises(NotFound):
            secrets.get(tx, "s1")
    held = left_on_disk(world)
    assert b"very secret" not in held
    assert target.token.encode() not in held


def test_the_host_key_of_first_contact_is_kept_to(world: World) -> None:
    push(world)
    push(world)
    assert [target.host_key_fingerprint for target in world.installer.targets] == ["", "SHA256:shown"]


def test_a_push_that_fails_forgets_the_key_and_says_why(world: World) -> None:
    world.installer.failure = Refused("There is no sudo.", remedy="Use root.")
    job = push(world)
    assert (job.state, job.error, job.remedy) == (JobState.FAILED, "There is no sudo.", "Use root.")
    assert [step.state.value for step in job.steps] == ["failed", "succeeded", "succeeded"]
    with world.catalog.reading() as tx:
        assert machines.every(tx) == []
        with pytest.raises(NotFound):
            secrets.get(tx, "s1")


def test_steps_and_progress(world: World) -> None:
    job = world.engine.start("stepwise", {"subject": "x"})
    running = world.until(job.id, lambda found: any(step.detail for step in found.steps))
    shown = [(step.name, step.state.value, step.detail) for step in running.steps]
    assert shown == [("first", "succeeded", ""), ("second", "running", "in the middle"), ("third", "queued", "")]
    assert running.fraction == 0.5
    world.go_on = True
    ended = world.ended(job.id)
    assert (ended.result, ended.subject, ended.fraction) == ({"done": True}, "x", 1.0)
    assert world.engine.listed()[0].id == job.id


def test_an_error_of_ours_comes_through_whole(world: World) -> None:
    world.go_on = True
    ended = world.ended(world.engine.start("stepwise", {"subject": "x", "fail": True}).id)
    assert (ended.state, ended.error, ended.remedy) == (JobState.FAILED, "It was told to fail.", "Tell it not to.")


def test_a_refused_job_leaves_no_traceback_in_the_log(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.installer.failure = Refused("There is no sudo.", remedy="Use root.")
    push(world)
    # The engine writes that a job has ended before it logs it.
    told = until(lambda: [record for record in caplog.records if "There is no sudo." in record.getMessage()], "a log")
    assert not any(record.exc_info for record in told)


def test_the_same_id_is_started_once(world: World) -> None:
    world.go_on = True
    for _ in range(3):
        world.engine.start("stepwise", {"subject": "x"}, JobId("the-one"))
        world.ended("the-one")
    assert world.ran == ["first"]


def test_cancelling_stops_before_the_next_step(world: World) -> None:
    job = world.engine.start("stepwise", {"subject": "x"})
    world.until(job.id, lambda found: found.steps[0].state is JobState.SUCCEEDED)
    assert world.engine.cancel(JobId(job.id)).state is JobState.CANCELLED
    with pytest.raises(NotFound):
        world.engine.cancel(JobId("nothing"))
    with pytest.raises(Unsupported):
        world.engine.start("unheard of", {"subject": "x"})


def test_a_sealed_secret_cannot_stand_in_for_another() -> None:
    sealer = SecretSealer(bytes(32))
    sealed = sealer.seal("a", b"secret")
    assert sealer.open("a", sealed) == b"secret"
    for name, data in (("b", sealed), ("a", sealed[:-1] + bytes([sealed[-1] ^ 1]))):
        with pytest.raises(WrongKey):
            sealer.open(name, data)


def test_a_push_that_failed_revokes_its_token_and_leaves_an_event(world: World) -> None:
    world.installer.failure = Refused("web cannot be protected as it is.", remedy="Mend it.")
    job = push(world)
    assert job.state is JobState.FAILED
    with world.catalog.reading() as tx:
        assert tokens.every(tx) == []
        (event,) = [row for row in events.listed(tx) if row.kind == "machine.add-failed"]
    assert (event.severity, event.subject) == ("warning", "host/192.0.2.1")
    assert "cannot be protected as it is" in event.message
    (target,) = world.installer.targets
    assert target.token not in event.message


def test_a_push_by_password_through_a_jump_host(world: World) -> None:
    with world.catalog.writing() as tx:
        sealed = world.sealer.seal("s1", as_secret("", "very secret"))
        secrets.keep(tx, SecretRow(id="s1", sealed=sealed, created=NOW))
        secrets.remember_host_key(tx, "gate:2222", "SHA256:gate", NOW)
    asked: dict[str, Any] = {"host": "192.0.2.1", "port": 22, "user": "root", "host_key_fingerprint": "", "name": "web"}
    asked |= {"policy": "default", "protect": True, "server_url": "https://10.0.2.2", "disks": []}
    request = {"subject": "192.0.2.1", "secret": "s1", "actor": "user/a", "request": {**asked, "jump": "eve@gate:2222"}}
    assert world.ended(world.engine.start(PUSH, request).id).state is JobState.SUCCEEDED
    (target,) = world.installer.targets
    assert (target.private_key, target.password) == ("", "very secret")
    assert target.jump == JumpHost("gate", 2222, "eve", "SHA256:gate")
    assert "very secret" not in repr(target)
    assert b"very secret" not in left_on_disk(world)
