"""The job that fails several machines over, or tests that. Each machine has its own failover, a child of this job.

A machine that has come up stays up, whatever happens to the others. Cancelling ends the children in progress, newest
first, and starts no more.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from dbos import DBOS

from farshore.api_types.failovers import FailoverKind, FailoverRequest, Shutdown
from farshore.api_types.jobs import OnFailure
from farshore.catalog import failovers
from farshore.durable.children import Child, Outcome, child_job, run_children
from farshore.durable.jobs import JobDefinition, Request, Result
from farshore.model.errors import Cancelled, Refused
from farshore.model.states import FailoverState, JobState
from farshore.model.text import enumerated
from farshore.recovery.asking import SHUT_DOWN, ask_for
from farshore.recovery.context import RecoveryContext
from farshore.recovery.steps.remove import note_failed

SEVERAL = "failovers"


def several_job(context: RecoveryContext, real: JobDefinition, test: JobDefinition) -> JobDefinition:
    """Make the job's definition from those of its children. Its request has ``subject``, ``actor``, ``kind``,
    ``at_once``, ``on_failure``, and ``members``, each with ``machine``, ``name``, ``failover`` and ``request``
    (FailoverRequest)."""

    @DBOS.workflow(name=SEVERAL)
    def run(request: Request) -> Result:
        parent = str(DBOS.workflow_id)
        is_test = request["kind"] == FailoverKind.TEST.value

        def child(member: dict[str, Any]) -> Child:
            step = f"{'test' if is_test else 'fail over'} {member['name']}"
            job = child_job(parent, step)
            work: Request = {"subject": member["machine"], "failover": member["failover"]}
            if member["request"].get("shutdown", Shutdown.NO.value) != Shutdown.NO.value:
                work[SHUT_DOWN] = True
            ask = partial(_ask, context, member, job, parent, str(request["actor"]))
            return Child(step, test if is_test else real, work, ask)

        members = request["members"]
        ended = run_children(
            [child(member) for member in members],
            at_once=request["at_once"],
            on_failure=OnFailure(request["on_failure"]),
        )
        failed = [
            (member["name"], outcome)
            for member, outcome in zip(members, ended.outcomes, strict=True)
            if outcome.state is not JobState.SUCCEEDED
        ]
        if ended.cancelled:
            raise Cancelled(
                f"{len(members) - len(failed)} of {len(members)} machines had come up, and stay.",
                remedy=f"See each: farshore job show {parent}",
            )
        if failed:
            raise Refused(
                f"{len(failed)} of {len(members)} machines did not come up: {_named(failed)}",
                remedy=f"See each: farshore job show {parent}",
            )
        return {"failovers": {member["name"]: member["failover"] for member in members}}

    def stopped(job: str, _request: Request) -> None:
        with context.catalog.reading() as tx:
            waiting = [row.id for row in failovers.asked_for_by(tx, job)]
        for failover in waiting:
            note_failed(context, failover, "The server was upgraded before it began.", FailoverState.FAILED)

    return JobDefinition(SEVERAL, run, (), stopped=stopped, has_children=True)


def _ask(context: RecoveryContext, member: dict[str, Any], job: str, parent: str, actor: str) -> None:
    """Create the record on which the child works."""
    with context.catalog.writing() as tx:
        request = FailoverRequest.model_validate(member["request"])
        now = context.clock.now()
        failover, machine = str(member["failover"]), str(member["machine"])
        ask_for(tx, machine, request, failover=failover, job=job, now=now, actor=actor, parent=parent)


def _named(failed: list[tuple[str, Outcome]]) -> str:
    return enumerated([f"{name} ({outcome.error or outcome.state.value})" for name, outcome in failed])
