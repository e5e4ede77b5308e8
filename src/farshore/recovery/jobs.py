"""The jobs of recovery: durable workflows over the steps. Only here is DBOS known to recovery.

A job that is cut off by the death of the server goes on at the first step that had not ended. A job that fails
removes what it had brought up and gives the machine back, so that a failed failover never stands in the way of the
next one.
"""

from __future__ import annotations

from dbos import DBOS

from farshore.model.errors import FarshoreError
from farshore.protection.durable import JobDefinition, Request, Result
from farshore.recovery.context import RecoveryContext
from farshore.recovery.steps.await_answer import await_answer
from farshore.recovery.steps.check import check
from farshore.recovery.steps.choose_point import choose_point
from farshore.recovery.steps.clearance import commit, may_clean_up
from farshore.recovery.steps.conclude import conclude
from farshore.recovery.steps.drain import drain
from farshore.recovery.steps.export import export
from farshore.recovery.steps.fence import fence
from farshore.recovery.steps.remove import note_failed, note_removed, remove
from farshore.recovery.steps.retire import retire_earlier
from farshore.recovery.steps.start import start_machine

FAILOVER = "failover"
TEST_FAILOVER = "test-failover"
CLEANUP = "cleanup"
COMMIT = "commit"

CHECK = "check"
FENCE = "fence the source"
DRAIN = "drain the process server"
CHOOSE = "choose the point"
RETIRE = "retire the earlier failover"
EXPORT = "export the disks"
START = "start the machine"
AWAIT = "await its answer"
CONCLUDE = "conclude"
HYDRATE = "hydrate"
UNDO = "undo"
NOTE = "note the outcome"
REMOVE = "remove everything"

_WORKING = frozenset({"PENDING", "ENQUEUED", "DELAYED"})


def recovery_jobs(context: RecoveryContext) -> tuple[JobDefinition, ...]:
    """Every job of recovery, bound to ``context``. Call it once in a process, before DBOS is launched."""

    @DBOS.workflow(name=FAILOVER)
    def fail_over(request: Request) -> Result:
        failover = str(request["failover"])
        try:
            DBOS.run_step({"name": CHECK}, check, context, failover)
            fenced = DBOS.run_step({"name": FENCE}, fence, context, failover)
            note = DBOS.run_step({"name": DRAIN}, drain, context, failover, fenced)
            position = DBOS.run_step({"name": CHOOSE}, choose_point, context, failover)
            DBOS.run_step({"name": RETIRE}, retire_earlier, context, failover)
            return _bring_up(failover, position, note)
        except (FarshoreError, OSError) as error:
            _undo(failover, error)
            raise

    @DBOS.workflow(name=TEST_FAILOVER)
    def test_failover(request: Request) -> Result:
        failover = str(request["failover"])
        try:
            DBOS.run_step({"name": CHECK}, check, context, failover)
            position = DBOS.run_step({"name": CHOOSE}, choose_point, context, failover)
            return _bring_up(failover, position, "")
        except (FarshoreError, OSError) as error:
            _undo(failover, error)
            raise

    def _bring_up(failover: str, position: str, note: str) -> Result:
        DBOS.run_step({"name": EXPORT}, export, context, failover, position)
        address = DBOS.run_step({"name": START}, start_machine, context, failover, position)
        answered = DBOS.run_step({"name": AWAIT}, await_answer, context, failover)
        return DBOS.run_step({"name": CONCLUDE}, conclude, context, failover, address, answered, note)

    def _undo(failover: str, error: FarshoreError | OSError) -> None:
        DBOS.run_step({"name": UNDO}, remove, context, failover)
        DBOS.run_step({"name": NOTE}, note_failed, context, failover, str(error))

    @DBOS.workflow(name=CLEANUP)
    def clean_up(request: Request) -> Result:
        failover = str(request["failover"])
        DBOS.run_step({"name": CHECK}, may_clean_up, context, failover, _is_working)
        DBOS.run_step({"name": REMOVE}, remove, context, failover)
        DBOS.run_step({"name": NOTE}, note_removed, context, failover)
        return {"failover": failover}

    @DBOS.workflow(name=COMMIT)
    def commit_failover(request: Request) -> Result:
        failover = str(request["failover"])
        superseded = DBOS.run_step({"name": COMMIT}, commit, context, failover)
        for earlier in superseded:
            DBOS.run_step({"name": REMOVE}, remove, context, earlier)
            DBOS.run_step({"name": NOTE}, note_removed, context, earlier)
        DBOS.run_step({"name": HYDRATE}, context.exports.hydrate, context.files(failover).folder)
        return {"failover": failover, "removed": superseded}

    bring_up = (EXPORT, START, AWAIT, CONCLUDE)
    return (
        JobDefinition(FAILOVER, fail_over, (CHECK, FENCE, DRAIN, CHOOSE, RETIRE, *bring_up)),
        JobDefinition(TEST_FAILOVER, test_failover, (CHECK, CHOOSE, *bring_up)),
        JobDefinition(CLEANUP, clean_up, (CHECK, REMOVE, NOTE)),
        JobDefinition(COMMIT, commit_failover, (COMMIT, HYDRATE)),
    )


def _is_working(job: str) -> bool:
    status = DBOS.get_workflow_status(job) if job else None
    return status is not None and status.status in _WORKING
