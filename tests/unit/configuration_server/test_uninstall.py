"""Taking an agent off: asked over its channel, removed by SSH where it is silent; then the machine is forgotten."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.unit.configuration_server.offices import MovableClock, Office
from tests.unit.protection.catalogs import MACHINE, NOW, add_machine, fresh_catalog
from tests.waiting import until

from farshore.api_types.commands import CommandFailure, CommandResult, UninstallArguments, UninstallResult
from farshore.api_types.jobs import Job
from farshore.api_types.users import Role
from farshore.catalog import commands, events, machines, secrets
from farshore.catalog.tables import SecretRow
from farshore.configuration_server.jobs import uninstall
from farshore.configuration_server.jobs.engine import JobEngine
from farshore.configuration_server.jobs.uninstall import UNINSTALL, UninstallParts, uninstall_job
from farshore.configuration_server.push_secrets import as_secret
from farshore.configuration_server.sealing import SecretSealer
from farshore.durable.outcomes import ENDED
from farshore.model.commands import CommandState
from farshore.model.errors import FarshoreError, NotFound, Unreachable
from farshore.model.identifiers import JobId
from farshore.model.states import JobState
from farshore.protection.commands import answer
from farshore.protection.commands import ask as ask_agent
from farshore.protection.installation import Reporter, SshTarget, TakenOff

LOGIN = {"host": "192.0.2.1", "port": 22, "user": "admin", "jump": "", "host_key_fingerprint": ""}
GONE = CommandResult(payload=UninstallResult(removed=["/opt/farshore"], stays=["/etc/farshore: hooks of yours"]))
OLD = CommandResult(failure=CommandFailure(code="unsupported", message="unknown kind", remedy="upgrade"))


class World:
    """A machine that is not protected, the engine, and a remover that notes or fails."""

    def __init__(self, folder: Path) -> None:
        self.catalog, self.sealer = fresh_catalog(folder), SecretSealer(bytes(32))
        with self.catalog.writing() as tx:
            add_machine(tx, state="unprotected", protect=False)
            sealed = self.sealer.seal("s1", as_secret("", "very secret"))
            secrets.keep(tx, SecretRow(id="s1", sealed=sealed, created=NOW))
        self.targets: list[SshTarget] = []
        self.failure: FarshoreError | None = None
        parts = UninstallParts(self.catalog, MovableClock(), self.sealer, self._remove, self._forget)
        self.engine = JobEngine(f"sqlite:///{folder / 'jobs.sqlite'}", [uninstall_job(parts)])
        self.engine.launch()

    def _remove(self, target: SshTarget, machine: str, report: Reporter) -> TakenOff:
        assert machine == MACHINE
        report(0.5, "removing")
        self.targets.append(target)
        if self.failure is not None:
            raise self.failure
        return TakenOff("SHA256:shown", ())

    def _forget(self, machine: str, actor: str) -> None:
        assert actor == "user/ann"
        with self.catalog.writing() as tx:
            machines.delete(tx, machines.get(tx, machine))

    def start(self, secret: str = "") -> JobId:
        work = {"subject": MACHINE, "name": "db1", "actor": "user/ann", "secret": secret, "login": LOGIN}
        return JobId(self.engine.start(UNINSTALL, work).id)

    def answered(self, job: JobId, result: CommandResult) -> None:
        until(lambda: self.asked(job))
        self.catalog.write(lambda tx: answer(tx, MACHINE, job, result, NOW))

    def asked(self, job: JobId) -> bool:
        with self.catalog.reading() as tx:
            return [row.id for row in commands.open_commands(tx, MACHINE)] == [job]

    def ended(self, job: JobId) -> Job:
        until(lambda: self.engine.show(job).state in ENDED)
        return self.engine.show(job)

    def known(self) -> bool:
        with self.catalog.reading() as tx:
            return machines.page(tx, machines.MachineFilter(), 9) != []


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    logging.getLogger("dbos").setLevel(logging.ERROR)  # a test defines its jobs anew, which DBOS warns of
    made = World(tmp_path)
    yield made
    made.engine.close()
    made.catalog.close()


def test_an_agent_that_is_off_is_forgotten_and_what_stays_is_said(world: World) -> None:
    job = world.start("s1")
    world.answered(job, GONE)
    ended = world.ended(job)
    assert ended.result == {"name": "db1", "way": "agent", "stays": ["/etc/farshore: hooks of yours"]}
    assert not world.known()
    assert world.targets == [], "SSH was not needed"
    with world.catalog.reading() as tx, pytest.raises(NotFound):
        secrets.get(tx, "s1")


def test_what_the_agent_cannot_do_is_done_by_ssh(world: World) -> None:
    job = world.start("s1")
    world.answered(job, OLD)
    assert world.ended(job).result["way"] == "ssh"
    (target,) = world.targets
    assert (target.host, target.user, target.password, target.private_key) == ("192.0.2.1", "admin", "very secret", "")
    assert "very secret" not in repr(target)
    assert not world.known()
    with world.catalog.reading() as tx:
        assert secrets.host_key(tx, "192.0.2.1:22") == "SHA256:shown"


def test_an_agent_that_is_silent_without_a_login_leaves_the_machine_known(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uninstall, "PATIENCE", 0.0)
    job = world.start()
    ended = world.ended(job)
    assert (ended.state, "did not answer" in ended.error, "--account" in ended.remedy) == (JobState.FAILED, True, True)
    assert world.known()
    with world.catalog.reading() as tx:
        assert commands.get(tx, job).state == CommandState.WITHDRAWN.value, "it does not go later on, unasked"
        assert [row.kind for row in events.listed(tx)] == ["machine.uninstall-failed"]


def test_ssh_that_fails_leaves_the_machine_known_and_no_secret(world: World) -> None:
    world.failure = Unreachable("192.0.2.1 port 22 cannot be reached by SSH.", remedy="Check the address.")
    job = world.start("s1")
    world.answered(job, OLD)
    ended = world.ended(job)
    assert (ended.state, ended.remedy) == (JobState.FAILED, "Check the address.")
    assert world.known()
    with world.catalog.reading() as tx, pytest.raises(NotFound):
        secrets.get(tx, "s1")


@pytest.fixture
def office(tmp_path: Path) -> Iterator[Office]:
    made = Office(tmp_path)
    yield made
    made.close()


def ask(office: Office, body: dict[str, Any], root: dict[str, Any]) -> tuple[int, Any]:
    said = office.call("POST", f"/v1/machines/{MACHINE}/uninstall", body, root)
    return said.status, said.body


def test_a_protected_machine_keeps_its_agent(office: Office) -> None:
    with office.services.catalog.writing() as tx:
        add_machine(tx, state="protected")
    status, body = ask(office, {}, office.user("root", Role.CONTRIBUTOR))
    assert (status, "unprotect db1" in str(body)) == (409, True)
    assert office.jobs.started == []


def test_the_login_is_sealed_and_an_account_may_be_named(office: Office) -> None:
    with office.services.catalog.writing() as tx:
        add_machine(tx, state="unprotected", protect=False)
    root = office.user("root", Role.CONTRIBUTOR)
    account = {"name": "dc", "user": "admin", "password": "very secret"}
    assert office.call("POST", "/v1/push-accounts", account, root).status == 201
    assert ask(office, {"login": {"host": "web1"}}, root)[0] == 400
    assert ask(office, {"login": {"host": "web1", "account": "dc"}}, root)[0] == 202
    assert ask(office, {}, root)[0] == 202
    (_, first), (_, second) = office.jobs.started
    assert "very secret" not in str(first)
    assert (first["login"]["user"], first["login"]["host"], bool(first["secret"])) == ("admin", "web1", True)
    assert (second["login"], second["secret"]) == ({}, "")


def test_who_protects_the_machine_again_keeps_its_agent(office: Office) -> None:
    with office.services.catalog.writing() as tx:
        add_machine(tx, state="unprotected", protect=False)
    office.services.catalog.write(lambda tx: ask_agent(tx, "go", MACHINE, UninstallArguments(), NOW))
    root = office.user("root", Role.CONTRIBUTOR)
    assert office.call("PUT", f"/v1/machines/{MACHINE}/protection", {}, root).status == 200
    with office.services.catalog.reading() as tx:
        assert commands.get(tx, "go").state == CommandState.WITHDRAWN.value
