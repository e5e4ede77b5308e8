"""The push job when a process server logs in: what it waits for, what it believes, and that no token outlives it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.unit.configuration_server.offices import MovableClock
from tests.unit.protection.catalogs import NOW, SECOND, SERVER, add_server, description, fresh_catalog
from tests.waiting import until

from farshore.api_types.commands import CommandFailure
from farshore.api_types.jobs import Job
from farshore.api_types.machines import TokenRequest
from farshore.api_types.pushes import PushProgress, PushResult
from farshore.catalog import events, process_servers, pushes, secrets, tokens
from farshore.catalog.database import Transaction
from farshore.catalog.tables import PushRow, SecretRow
from farshore.configuration_server.jobs import pushing_through
from farshore.configuration_server.jobs.engine import JobEngine
from farshore.configuration_server.jobs.push import PUSH, PushParts, push_job
from farshore.configuration_server.jobs.pushing_through import token_sealed_as
from farshore.configuration_server.sealing import SecretSealer
from farshore.durable.outcomes import ENDED
from farshore.model.errors import NotFound, Refused, Unreachable
from farshore.model.identifiers import JobId, new_id
from farshore.model.states import JobState
from farshore.protection import pushes as by_servers
from farshore.protection.enrolment import create_token, enrol
from farshore.protection.installation import PushTarget, Reporter
from farshore.protection.push.signing import ReleaseKey
from farshore.protection.pushes import LINE_SECONDS, TOKEN_SECONDS

HOST = "10.0.0.5"
PLACE = f"{SERVER}/{HOST}:22"


class World:
    """A job engine; the process server's part is played by the tests."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.catalog = fresh_catalog(folder)
        self.sealer = SecretSealer(bytes(32))
        self.by_itself: list[str] = []
        self.connects = False
        with self.catalog.writing() as tx:
            add_server(tx).host_names = ["ps.example.com"]
        self.job = JobId(new_id())
        release_key = ReleaseKey(folder / "release", folder / "release" / "release.key")
        release_key.ensure()
        self.clock = MovableClock()
        parts = PushParts(self.catalog, self.clock, self.sealer, lambda: "f" * 64, self.install, release_key)
        self.engine = JobEngine(f"sqlite:///{folder / 'jobs.sqlite'}", [push_job(parts)])
        self.engine.launch()

    def install(self, target: PushTarget, report: Reporter) -> str:
        """The configuration server's own attempt."""
        self.by_itself.append(target.token)
        report(0.0, "connecting")
        if self.connects:
            report(0.1, "looking around")
        raise Unreachable(f"{HOST} cannot be reached.", remedy="Check the address.")

    def start(self, through: str = SERVER, **more: Any) -> None:
        with self.catalog.writing() as tx:
            secrets.keep(tx, SecretRow(id="s1", sealed=self.sealer.seal("s1", b"very secret"), created=NOW))
        asked: dict[str, Any] = {"host": HOST, "port": 22, "user": "root", "host_key_fingerprint": "", "name": "web"}
        asked |= {"policy": "default", "protect": True, "server_url": "https://dr", "disks": [], "jump": ""}
        asked |= {"through": through, **more}
        work = {"subject": HOST, "secret": "s1", "actor": "user/a", "request": asked}
        self.engine.start(PUSH, work, self.job)

    def asked(self) -> PushRow:
        """What the process server is to do, once it is."""

        def found() -> PushRow | None:
            with self.catalog.reading() as tx:
                return pushes.find(tx, self.job)

        return until(found, "the push") or PushRow()

    def does(self, work: Callable[[Transaction, Any], Any]) -> Any:
        return self.catalog.write(lambda tx: work(tx, process_servers.get(tx, SERVER)))

    def begins(self, run: str = "r1") -> str:
        """The server takes it; the token."""
        row = self.asked()
        self.does(lambda tx, server: by_servers.begin(tx, server, row.id, run, NOW))
        return self.sealer.open(token_sealed_as(row.id), row.token_secret).decode()

    def ends(self, run: str = "r1", **result: Any) -> None:
        said = PushResult(run=run, **result)
        assert self.does(lambda tx, server: by_servers.end(tx, server, self.job, said))

    def enrols(self, token: str) -> None:
        with self.catalog.writing() as tx:
            enrol(tx, token, description(), NOW).last_seen = NOW

    def ended(self) -> Job:
        until(lambda: self.engine.show(self.job).state in ENDED, "the job's end")
        return self.engine.show(self.job)

    def left(self) -> tuple[list[int], list[str]]:
        """The tokens' uses and the kinds of events; no push and no secret are left."""
        with self.catalog.reading() as tx:
            until(lambda: pushes.find(tx, self.job) is None, "the push is dropped")
            with pytest.raises(NotFound):
                secrets.get(tx, "s1")
            return [row.used for row in tokens.every(tx)], [row.kind for row in events.listed(tx)]


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    logging.getLogger("dbos").setLevel(logging.ERROR)
    monkeypatch.setattr(pushing_through, "POLL", 0.01)
    monkeypatch.setattr(pushing_through, "QUIET_LOOKS", 1 << 30)
    made = World(tmp_path)
    yield made
    made.engine.close()
    made.catalog.close()


def test_a_process_server_carries_it_out(world: World) -> None:
    world.start()
    token = world.begins()
    note = PushProgress(run="r1", fraction=0.4, detail="copying")
    world.does(lambda tx, server: by_servers.note(tx, server, world.job, note))
    shown = until(lambda: [s for s in world.engine.show(world.job).steps if "copying" in s.detail], "progress")
    assert shown[0].detail == "22222222: copying"
    world.enrols(token)
    world.ends(host_key="SHA256:shown")
    job = world.ended()
    assert (job.state, job.result["name"]) == (JobState.SUCCEEDED, "web")
    assert world.by_itself == []
    used, kinds = world.left()
    assert used == [NOW]
    assert kinds.count("machine.add-begun") == 1
    with world.catalog.reading() as tx:
        assert secrets.host_key(tx, PLACE) == "SHA256:shown"
    held = b"".join(path.read_bytes() for path in world.folder.iterdir() if path.is_file())
    assert token.encode() not in held
    assert b"very secret" not in held


def test_its_failure_is_the_jobs(world: World) -> None:
    world.start()
    world.begins()
    world.ends(failure=CommandFailure(code="refused", message="There is no sudo.", remedy="Use root."))
    job = world.ended()
    assert (job.state, job.error, job.remedy) == (JobState.FAILED, "There is no sudo.", "Use root.")
    used, kinds = world.left()
    assert used == []
    assert "machine.add-failed" in kinds


@pytest.mark.parametrize("begun", [False, True])
def test_one_that_is_silent_is_given_up(world: World, monkeypatch: pytest.MonkeyPatch, begun: bool) -> None:
    world.start()
    if begun:
        world.begins()
    monkeypatch.setattr(pushing_through, "QUIET_LOOKS", 5)
    job = world.ended()
    assert (job.state, job.error) == (JobState.FAILED, "Process server 22222222 does not report on the push.")
    assert world.left()[0] == []
    note = PushProgress(run="r1", fraction=0.4)
    assert not world.does(lambda tx, server: by_servers.note(tx, server, world.job, note)), "it ends what it does"


def another(world: World) -> str:
    """A push that the server is at already."""
    with world.catalog.writing() as tx:
        row = PushRow(id="another", server=SERVER, actor="user/a", login={"host": "h"}, secret="s", token="t")
        row.token_secret, row.created = b"", NOW
        pushes.ask(tx, row)
        by_servers.begin(tx, process_servers.get(tx, SERVER), row.id, "r1", NOW)
        return row.id


def test_one_in_line_waits_as_long_as_those_before_it_give_signs(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    before, looks = another(world), 0
    note = PushProgress(run="r1", fraction=0.4)

    def look(_seconds: float) -> None:
        nonlocal looks
        looks += 1
        if looks < 100:
            world.does(lambda tx, server: by_servers.note(tx, server, before, note))
        if looks == 50:
            assert "it waits, 1 others are under way" in world.engine.show(world.job).steps[0].detail
        if looks == 100:
            world.enrols(world.begins())
            world.ends(host_key="SHA256:shown")

    monkeypatch.setattr(pushing_through, "QUIET_LOOKS", 5)
    monkeypatch.setattr(pushing_through, "time", SimpleNamespace(sleep=look))
    world.start()
    assert world.ended().state is JobState.SUCCEEDED
    assert looks == 100


def test_one_in_line_is_given_up_where_those_before_it_are_silent(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    another(world)
    monkeypatch.setattr(pushing_through, "QUIET_LOOKS", 5)
    world.start()
    assert world.ended().error == "Process server 22222222 does not report on the push."


@pytest.mark.parametrize(("begun", "seconds"), [(True, TOKEN_SECONDS), (False, LINE_SECONDS)])
def test_one_that_gives_signs_for_ever_ends_all_the_same(world: World, begun: bool, seconds: int) -> None:
    world.start()
    world.asked()
    if begun:
        world.begins()
        note = PushProgress(run="r1", fraction=0.4, detail="copying")
        world.does(lambda tx, server: by_servers.note(tx, server, world.job, note))
    world.clock.time += (seconds - 1) * SECOND
    assert world.engine.show(world.job).state is JobState.RUNNING
    world.clock.time += SECOND
    job = world.ended()
    what = (
        "has not completed the push within 30 minutes (copying)."
        if begun
        else "has not started this push within 4 hours."
    )
    assert (job.state, job.error) == (JobState.FAILED, f"Process server 22222222 {what}")
    used, kinds = world.left()
    assert used == []
    assert "machine.add-failed" in kinds


@pytest.mark.parametrize("code", ["cancelled", "displaced"])
def test_a_process_server_cannot_say_that_a_job_was_cancelled_or_this_server_displaced(world: World, code: str) -> None:
    world.start()
    world.begins()
    world.ends(failure=CommandFailure(code=code, message="So it says.", remedy="-"))
    job = world.ended()
    assert (job.state, job.error) == (JobState.FAILED, "So it says.")
    error = world.engine._found(world.job).error
    assert type(error) is Refused
    assert "machine.add-failed" in world.left()[1]


def test_one_that_has_gone_since_it_was_named_is_not_waited_for(world: World) -> None:
    with world.catalog.writing() as tx:
        process_servers.get(tx, SERVER).last_seen = 0
    world.start()
    job = world.ended()
    assert (job.error or "").startswith("Process server 22222222 does not report")
    used, kinds = world.left()
    assert used == []
    assert "machine.add-failed" in kinds


def test_an_account_that_stays_here_is_given_to_nobody(world: World) -> None:
    world.start(through="", stays=True)
    job = world.ended()
    assert job.error == f"{HOST} cannot be reached."
    assert (job.remedy or "").startswith("Ask a contributor to add it --through 22222222")
    used, kinds = world.left()
    assert used == []
    assert "machine.add-begun" not in kinds


def test_a_cancelled_push_is_not_wanted_and_its_token_opens_nothing(world: World) -> None:
    world.start()
    world.begins()
    assert world.engine.cancel(world.job).state is JobState.CANCELLED
    note = PushProgress(run="r1", fraction=0.4)
    assert not world.does(lambda tx, server: by_servers.note(tx, server, world.job, note))
    assert world.left()[0] == []


def test_a_step_that_was_cut_off_goes_on_with_the_push_that_it_had_asked_for(world: World) -> None:
    """As after a kill of this server while the process server was at it, in the place of this server's own attempt."""
    with world.catalog.writing() as tx:
        token = create_token(tx, TokenRequest(name="web"), "user/a", NOW)
        row = PushRow(id=world.job, server=SERVER, actor="user/a", login={"host": HOST}, secret="s1", token=token.id)
        row.token_secret, row.created = world.sealer.seal(token_sealed_as(world.job), token.secret.encode()), NOW
        row.ends = NOW + LINE_SECONDS * SECOND
        pushes.ask(tx, row)
    world.begins()
    world.start(through="")
    until(lambda: "22222222" in world.engine.show(world.job).steps[0].detail, "it waits")
    world.enrols(token.secret)
    world.ends(host_key="SHA256:shown")
    assert world.ended().state is JobState.SUCCEEDED
    assert world.by_itself == []
    assert world.left()[0] == [NOW], "no second token was made"


def test_the_key_of_first_contact_is_kept_to_by_site(world: World) -> None:
    with world.catalog.writing() as tx:
        secrets.remember_host_key(tx, PLACE, "SHA256:known", NOW)
    world.start()
    world.enrols(world.begins())
    world.ends(host_key="SHA256:other")
    assert "SHA256:other, not SHA256:known" in (world.ended().error or "")


def test_where_this_server_does_not_reach_the_host_the_one_at_the_site_does(world: World) -> None:
    world.start(through="")
    token = world.begins()
    assert len(world.by_itself) == 1
    assert token not in world.by_itself
    world.enrols(token)
    world.ends(host_key="SHA256:shown")
    assert world.ended().state is JobState.SUCCEEDED
    used, kinds = world.left()
    assert used == [NOW], "the token of the first attempt is gone"
    assert "machine.add-failed" not in kinds
    with world.catalog.reading() as tx:
        assert (secrets.host_key(tx, PLACE), secrets.host_key(tx, f"{HOST}:22")) == ("SHA256:shown", "")


def test_a_connection_that_broke_later_is_no_reason_to_go_elsewhere(world: World) -> None:
    world.connects = True
    world.start(through="")
    job = world.ended()
    assert (job.state, job.remedy) == (JobState.FAILED, "Check the address.")
    assert world.left()[0] == []


@pytest.mark.parametrize("servers", [0, 2])
def test_where_nobody_is_meant_the_operator_is_asked(world: World, servers: int) -> None:
    with world.catalog.writing() as tx:
        process_servers.get(tx, SERVER).host_names = ["a"] if servers else []
        if servers:
            add_server(tx, "44444444-4444-4444-8444-444444444444").host_names = ["b"]
    world.start(through="")
    job = world.ended()
    named = "Name the process server at its site: --through 22222222 or 44444444."
    assert (job.error, job.remedy) == (f"{HOST} cannot be reached.", named if servers else "Check the address.")
    used, kinds = world.left()
    assert used == []
    assert "machine.add-failed" in kinds
