"""A point's command and its job: the agent is asked with the request, and a job follows, whoever dies in between."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from tests.unit.configuration_server.offices import MovableClock, NotedJobs, Office
from tests.unit.protection.catalogs import MACHINE, NOW, add_machine, add_server, fresh_catalog
from tests.unit.protection.test_granting import request
from tests.waiting import until

from farshore.api_types.commands import CommandFailure, CommandResult, PointArguments, PointResult
from farshore.api_types.jobs import Job
from farshore.api_types.users import Role
from farshore.catalog import commands, epochs
from farshore.catalog.database import Catalog
from farshore.configuration_server.jobs import commanding
from farshore.configuration_server.jobs.engine import JobEngine
from farshore.configuration_server.jobs.point import point_job, start_asked, start_point
from farshore.configuration_server.jobs.sqlite_file import WriteAheadConnection
from farshore.durable.outcomes import ENDED
from farshore.model.commands import CommandState
from farshore.model.errors import TryLater
from farshore.model.identifiers import JobId
from farshore.model.point import PointKind
from farshore.model.states import JobState
from farshore.protection.commands import answer, ask
from farshore.protection.granting import grant

COMMAND = "44444444-4444-4444-8444-444444444444"
CUT = CommandResult(payload=PointResult(epoch=1, sequence=5, time=NOW))


def asked(catalog: Catalog, name: str = "before") -> None:
    arguments = PointArguments(kind=PointKind.CRASH_CONSISTENT, name=name)
    catalog.write(lambda tx: ask(tx, COMMAND, MACHINE, arguments, NOW))


def standing(catalog: Catalog) -> CommandState:
    with catalog.reading() as tx:
        return CommandState(commands.get(tx, COMMAND).state)


class World:
    """A machine with an epoch that is stored up to 10, and the engine."""

    def __init__(self, folder: Path) -> None:
        self.catalog, self.file = fresh_catalog(folder), folder / "jobs.sqlite"
        with self.catalog.writing() as tx:
            grant(tx, add_machine(tx), request(), add_server(tx), NOW)
            epoch = epochs.get(tx, MACHINE, 1)
            epoch.stored, epoch.consistent, epoch.consistent_from = 10, True, 1
        self.clock = MovableClock()
        self.engine = JobEngine(f"sqlite:///{self.file}", [point_job(self.catalog, self.clock)])
        self.engine.launch()

    def answered(self, result: CommandResult) -> None:
        self.catalog.write(lambda tx: answer(tx, MACHINE, COMMAND, result, NOW))

    def ended(self) -> Job:
        until(lambda: self.engine.show(JobId(COMMAND)).state in ENDED)
        return self.engine.show(JobId(COMMAND))


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    logging.getLogger("dbos").setLevel(logging.ERROR)  # a test defines its jobs anew, which DBOS warns of
    made = World(tmp_path)
    yield made
    made.engine.close()
    made.catalog.close()


def test_the_agent_is_asked_in_the_transaction_of_the_request(office: Office) -> None:
    with office.services.catalog.writing() as tx:
        add_machine(tx, state="protected")
    job = office.call("POST", "/v1/machines/db1/points", {"name": "before"}, office.user("ann", Role.OPERATOR))
    assert office.jobs.started == [("point", {"subject": MACHINE, "kind": "crash-consistent", "name": "before"})]
    with office.services.catalog.reading() as tx:
        (row,) = commands.open_commands(tx, MACHINE)
    assert (row.id, row.arguments) == (job.body["id"], {"kind": "crash-consistent", "name": "before"})


def test_a_command_whose_job_cannot_be_started_is_withdrawn(office: Office) -> None:
    class Full(NotedJobs):
        def start(self, kind: str, request: dict[str, Any], job: Any = None) -> Job:
            raise TryLater("The disk is full.", remedy="-")

    catalog = office.services.catalog
    with catalog.writing() as tx:
        add_machine(tx, state="protected")
    asked(catalog)
    with pytest.raises(TryLater, match="full"):
        start_point(Full(), catalog, office.clock, COMMAND, {"subject": MACHINE})
    assert standing(catalog) is CommandState.WITHDRAWN


def test_a_command_without_a_job_gets_one(world: World) -> None:
    """The server died between the two; the name is the one that was asked for."""
    asked(world.catalog)
    start_asked(world.engine, world.catalog, world.clock)
    start_asked(world.engine, world.catalog, world.clock)
    world.answered(CUT)
    job = world.ended()
    assert (job.state, job.subject, job.result["sequence"]) == (JobState.SUCCEEDED, MACHINE, 5)
    assert [found.id for found in world.engine.listed()] == [COMMAND]
    start_asked(world.engine, world.catalog, world.clock)
    assert standing(world.catalog) is CommandState.SUCCEEDED


def test_a_command_whose_job_has_ended_is_withdrawn(world: World) -> None:
    asked(world.catalog)
    start_asked(world.engine, world.catalog, world.clock)
    world.answered(CommandResult(failure=CommandFailure(code="busy", message="no", remedy="wait")))
    assert world.ended().state is JobState.FAILED
    with world.catalog.writing() as tx:  # as a job leaves it that was cut off in the middle of being cancelled
        row = commands.get(tx, COMMAND)
        row.state, row.failure = CommandState.WAITING.value, {}
    start_asked(world.engine, world.catalog, world.clock)
    assert standing(world.catalog) is CommandState.WITHDRAWN


def test_a_job_hears_of_the_answer_without_looking_for_it(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commanding, "LOOK_EVERY", 3600.0)
    asked(world.catalog)
    start_asked(world.engine, world.catalog, world.clock)
    until(lambda: [step.state for step in world.engine.show(JobId(COMMAND)).steps][1] is JobState.RUNNING)
    world.answered(CUT)
    assert world.ended().state is JobState.SUCCEEDED


def test_the_records_of_jobs_have_a_write_ahead_log_that_is_flushed(world: World) -> None:
    with closing(sqlite3.connect(world.file)) as other:
        assert other.execute("PRAGMA journal_mode").fetchone() == ("wal",), "DBOS writes with our settings"
    with closing(sqlite3.connect(world.file, factory=WriteAheadConnection)) as ours:
        assert ours.execute("PRAGMA synchronous").fetchone() == (2,)
