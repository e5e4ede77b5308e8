"""The job that cuts a point: ask the agent, wait for its mark in the stream, wait until that is in the vault."""

from __future__ import annotations

import time

from dbos import DBOS

from farshore.api_types.commands import PointArguments
from farshore.catalog import epochs
from farshore.catalog.database import Catalog
from farshore.configuration_server.jobs.commanding import await_result
from farshore.configuration_server.jobs.withdrawing import withdrawing
from farshore.durable.jobs import JobDefinition, Request, Result
from farshore.durable.steps import ONCE, USUAL, run_step
from farshore.model.errors import TryLater, WrongState
from farshore.model.point import PointKind
from farshore.model.ports import Clock
from farshore.protection.commands import ask as ask_agent

POINT = "point"
ASK, MARK, STORE = "ask the agent", "mark the stream", "store in the vault"
PATIENCE = 180.0
POLL = 0.2


def point_job(catalog: Catalog, clock: Clock) -> JobDefinition:
    """Make the job's definition. Its request: ``subject`` (machine id), ``kind``, ``name``."""

    def ask(request: Request, command: str) -> None:
        arguments = PointArguments(kind=PointKind(request["kind"]), name=request["name"])
        catalog.write(lambda tx: ask_agent(tx, command, request["subject"], arguments, clock.now()))

    def mark(command: str) -> Result:
        found = await_result(
            catalog,
            clock,
            command,
            patience=PATIENCE,
            what_failed="The agent could not cut the point",
            remedy="See the machine's warnings: farshore machine show.",
        )
        if found is not None:
            return found
        raise TryLater(
            f"The agent did not cut the point within {PATIENCE:.0f} seconds.",
            remedy="Check that the machine runs and reaches this server.",
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
                        "The point was cut while the machine's copy was not whole yet.",
                        remedy="Ask again once the machine is protected.",
                    )
            time.sleep(POLL)
        raise TryLater(
            "The point is cut but not stored yet.", remedy="It will appear once the process server has caught up."
        )

    @DBOS.workflow(name=POINT)
    def run(request: Request) -> Result:
        command = str(DBOS.workflow_id)
        run_step(ASK, USUAL, ask, request, command)
        where = run_step(MARK, ONCE, mark, command)
        run_step(STORE, ONCE, store, request, where)
        return where

    return JobDefinition(POINT, run, (ASK, MARK, STORE), stopped=withdrawing(catalog, clock))
