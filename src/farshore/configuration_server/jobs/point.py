"""The job that creates a point: ask the agent, wait for its mark in the stream, wait until that is in the vault.

The agent is asked in the transaction in which the API accepts the request, and receives the command before the job is
stored: the user wants a point of this moment. ``start_point`` and ``start_asked`` make sure that a job follows the
command.
"""

from __future__ import annotations

import time
from functools import partial

from dbos import DBOS

from farshore.api_types.commands import PointArguments
from farshore.api_types.jobs import Job
from farshore.catalog import commands, epochs
from farshore.catalog.database import Catalog
from farshore.configuration_server.jobs.commanding import Answers
from farshore.configuration_server.jobs.engine import JobEngine
from farshore.configuration_server.jobs.withdrawing import withdrawing
from farshore.durable.jobs import JobDefinition, Request, Result
from farshore.durable.outcomes import ENDED
from farshore.durable.steps import ONCE, USUAL, run_step
from farshore.model.commands import CommandKind
from farshore.model.errors import TryLater, WrongState
from farshore.model.identifiers import JobId
from farshore.model.point import PointKind
from farshore.model.ports import Clock
from farshore.protection.commands import ask as ask_agent

POINT = "point"
ASK, MARK, STORE = "ask the agent", "mark the stream", "store in the vault"
PATIENCE = 180.0
POLL = 0.2


def start_point(jobs: JobEngine, catalog: Catalog, clock: Clock, command: str, request: Request) -> Job:
    """Start the job of a command that was requested under that id. If the job cannot be started, the command is
    withdrawn, because nobody would wait for its result, and the error is raised."""
    try:
        return jobs.start(POINT, request, JobId(command))
    except Exception:
        catalog.write(lambda tx: commands.withdraw(tx, command, clock.now()))
        raise


def start_asked(jobs: JobEngine, catalog: Catalog, clock: Clock) -> None:
    """Start jobs for commands that wait for their agents without a job, because the server that was asked for the point
    died before it could start one. Call it once the engine is launched. A running job is unchanged. If a job ended
    before it withdrew its command, the command is withdrawn."""
    with catalog.reading() as tx:
        waiting = commands.waiting_of_kind(tx, CommandKind.POINT)
    for row in waiting:
        request = request_for(row.machine, PointKind(row.arguments["kind"]), row.arguments["name"])
        if jobs.start(POINT, request, JobId(row.id)).state in ENDED:
            catalog.write(partial(commands.withdraw, command_id=row.id, now=clock.now()))


def request_for(machine: str, kind: PointKind, name: str) -> Request:
    """Return the job's request."""
    return {"subject": machine, "kind": kind.value, "name": name}


def point_job(catalog: Catalog, clock: Clock) -> JobDefinition:
    """Make the job's definition. Its request: ``subject`` (machine id), ``kind``, ``name``.

    If the API asked for it, its command is already in the catalog, under the job's id, where ``ask`` finds it."""
    answers = Answers(catalog, clock)

    def ask(request: Request, command: str) -> None:
        arguments = PointArguments(kind=PointKind(request["kind"]), name=request["name"])
        catalog.write(lambda tx: ask_agent(tx, command, request["subject"], arguments, clock.now()))

    def mark(command: str, subject: str) -> Result:
        found = answers.wait_for(
            command,
            subject,
            patience=PATIENCE,
            what_failed="The agent could not create the point",
            remedy="See the machine's warnings: farshore machine show",
        )
        if found is not None:
            return found
        raise TryLater(
            f"The agent has not created the point within {PATIENCE:.0f} seconds.",
            remedy="Check that the machine runs and reaches this server: farshore machine show",
        )

    def store(request: Request, where: Result) -> None:
        give_up = clock.monotonic() + PATIENCE
        while clock.monotonic() < give_up:
            with catalog.reading() as tx:
                epoch = epochs.get(tx, request["subject"], where["epoch"])
                if epoch.stored >= where["sequence"]:
                    if epoch.consistent and epoch.consistent_from <= where["sequence"]:
                        return
                    raise WrongState(
                        "The point was created before the machine's copy was complete.",
                        remedy="Repeat the command once the machine is protected.",
                    )
            time.sleep(POLL)
        raise TryLater(
            "The point was created but is not in the vault yet.",
            remedy="It appears in the list once the process server has caught up.",
        )

    @DBOS.workflow(name=POINT)
    def run(request: Request) -> Result:
        command = str(DBOS.workflow_id)
        run_step(ASK, USUAL, ask, request, command)
        where = run_step(MARK, ONCE, mark, command, request["subject"])
        run_step(STORE, ONCE, store, request, where)
        return where

    return JobDefinition(POINT, run, (ASK, MARK, STORE), stopped=withdrawing(catalog, clock))
