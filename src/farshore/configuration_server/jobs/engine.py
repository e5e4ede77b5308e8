"""Launches DBOS and maps its workflows to jobs.

In: job definitions of recovery and protection. Out: farshore.api_types.jobs.Job. Relies on: one configuration server
per job database (SQLite), or several on one PostgreSQL database. A job's kind and subject come from its workflow's name
and its request's ``subject``.

Each server is an *executor* with an id of its own (``installation.executor``), which stands in the record of each job
that it runs. A server that starts resumes the jobs under its own id, for nobody else runs under that: they were cut off
when it ended. It leaves alone what stands under another server's id, which may be running there; ``recover`` resumes
those of a server that is gone for good, when somebody has said so. What is resumed goes into one queue, from which the
servers of a job database take: a job may go on at another server than it began on.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

from dbos import DBOS, DBOSConfig, SetWorkflowID, StepInfo, WorkflowStatus
from dbos._error import DBOSException, DBOSMaxStepRetriesExceeded

from farshore.api_types.jobs import Job, JobStep
from farshore.durable.jobs import JobDefinition, Request
from farshore.durable.progress import forget_progress, progress_of
from farshore.model.errors import Cancelled, FarshoreError, NotFound, Unsupported, WrongState
from farshore.model.identifiers import JobId, new_id
from farshore.model.states import JobState

log = logging.getLogger(__name__)

APPLICATION = "farshore"
ALONE = "configuration-server"
"""The executor's id of every server of the releases in which servers had none of their own."""
GENERATION = "2"
"""Raise it where a job's order of steps changes: what an older generation left unfinished is stopped then."""

STATES = {
    "PENDING": JobState.RUNNING,
    "ENQUEUED": JobState.QUEUED,
    "DELAYED": JobState.WAITING,
    "SUCCESS": JobState.SUCCEEDED,
    "ERROR": JobState.FAILED,
    "MAX_RECOVERY_ATTEMPTS_EXCEEDED": JobState.FAILED,
    "CANCELLED": JobState.CANCELLED,
}
_UNFINISHED = ("PENDING", "ENQUEUED", "DELAYED")
ENDED = frozenset({JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED})
NANOSECONDS = 1_000_000


class _Refusals(logging.Filter):
    """DBOS logs every job that failed with its traceback. Where the job was refused, its record tells all there is."""

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, FarshoreError):
            what = "A job failed" if record.levelno >= logging.ERROR else "A step is tried again"
            record.msg, record.args, record.exc_info = f"{what}: {error}", (), None
        return True


_REFUSALS = _Refusals()


class JobEngine:
    """The jobs of one configuration server. Make it before ``launch``; the definitions' workflows must be imported."""

    def __init__(self, database_url: str, definitions: Iterable[JobDefinition], executor: str = ALONE) -> None:
        self._definitions = {definition.kind: definition for definition in definitions}
        self._executor = executor
        self._only_one = database_url.startswith("sqlite")
        config: DBOSConfig = {
            "name": APPLICATION,
            "system_database_url": database_url,
            "application_version": GENERATION,
            "executor_id": executor,
            "log_level": "WARNING",
            "enable_otlp": False,
        }
        self._dbos = DBOS(config=config)
        logging.getLogger("dbos").addFilter(_REFUSALS)

    def launch(self) -> None:
        """Start the engine; this server's unfinished jobs go on from their last completed step.

        So do those that can be nobody else's: all of a SQLite database, which one server has to itself, and those that
        servers without an id of their own left. Those of older generations end, whosever they are.
        """
        DBOS.launch()
        for row in DBOS.list_workflows(name=list(self._definitions), status=list(_UNFINISHED)):
            if row.app_version != GENERATION:
                try:
                    self._stop(row)
                except (FarshoreError, OSError) as error:  # one job must not keep the server from starting
                    log.error("What job %s of an earlier release left could not be put right: %s", row.name, error)
        left = self._unfinished() if self._only_one else {ALONE}
        self._resume(left - {self._executor})

    def close(self, patience: int = 0) -> None:
        """Stop. What still runs after ``patience`` seconds goes on at the next launch."""
        DBOS.destroy(workflow_completion_timeout_sec=patience)

    def start(self, kind: str, request: Request, job: JobId | None = None) -> Job:
        """Start a job; with the id of one that exists already, that one is answered and nothing is started twice."""
        definition = self._definitions.get(kind)
        if definition is None:
            raise Unsupported(f"This server has no {kind} jobs.", remedy="Upgrade the configuration server.")
        chosen = job or JobId(new_id())
        with SetWorkflowID(chosen):
            DBOS.start_workflow(definition.run, request)
        return self.show(chosen)

    def show(self, job: JobId) -> Job:
        """One job with its steps. Raises NotFound."""
        return self._describe(self._found(job), steps=True)

    def _found(self, job: JobId) -> WorkflowStatus:
        found = DBOS.list_workflows(workflow_ids=[job])
        if not found or found[0].name not in self._definitions:
            raise NotFound(f"There is no job {job}.", remedy="See `farshore job list`.")
        return found[0]

    def listed(self, limit: int = 100) -> list[Job]:
        """The newest jobs first, without their steps."""
        rows = DBOS.list_workflows(name=list(self._definitions), limit=limit, sort_desc=True)
        return [self._describe(row, steps=False) for row in rows]

    def cancel(self, job: JobId) -> Job:
        """Ask a job to end. Raises NotFound, WrongState where it has ended, or goes to its end."""
        row = self._found(job)
        state = self._describe(row, steps=False).state
        if state in ENDED:
            raise WrongState(f"Job {job} has {state.value} already.", remedy="There is nothing to cancel.")
        ask = self._definitions[row.name].cancel
        if ask is None:
            self._stop(row)
        else:
            ask(_request_of(row))
        return self.show(job)

    def _stop(self, row: WorkflowStatus) -> None:
        """Before its next step."""
        DBOS.cancel_workflow(row.workflow_id)
        put_right = self._definitions[row.name].stopped
        if put_right is not None:
            put_right(row.workflow_id, _request_of(row))

    def recover(self, executor: str) -> list[Job]:
        """Resume the unfinished jobs of a server that is gone for good; the jobs. One that still runs would do their
        present steps a second time. Raises NotFound where there are none, WrongState for this server itself."""
        if executor == self._executor:
            raise WrongState(
                f"{executor} is this server, which resumes its own jobs when it starts.",
                remedy="Give the id of a server that is gone for good: farshore job show JOB.",
            )
        resumed = self._resume({executor})
        if not resumed:
            raise NotFound(
                f"There is no unfinished job of a server {executor}.",
                remedy="See farshore job list; farshore job show JOB names its server.",
            )
        return [self.show(job) for job in resumed]

    def _unfinished(self) -> set[str]:
        """The executors under whose ids jobs stand that have begun and not ended."""
        found = DBOS.list_workflows(status="PENDING", load_input=False, load_output=False)
        return {row.executor_id for row in found if row.executor_id is not None}

    def _resume(self, executors: set[str]) -> list[JobId]:
        if not executors:
            return []
        # DBOS has no other name for it; what a server resumes under its own id goes the same way.
        return [JobId(handle.workflow_id) for handle in DBOS._recover_pending_workflows(sorted(executors))]

    def _describe(self, row: WorkflowStatus, *, steps: bool) -> Job:
        definition = self._definitions[row.name]
        state = JobState.CANCELLED if isinstance(row.error, Cancelled) else STATES[row.status]
        if state in ENDED:
            forget_progress(row.workflow_id)
        shown = self._steps(row.workflow_id, definition, state not in ENDED) if steps else []
        message, remedy = _failure(row)
        return Job(
            id=row.workflow_id,
            kind=row.name,
            subject=str(_request_of(row).get("subject", "")),
            executor=row.executor_id or "",
            state=state,
            created=(row.created_at or 0) * NANOSECONDS,
            ended=(row.completed_at or row.updated_at or 0) * NANOSECONDS if state in ENDED else 0,
            fraction=1.0 if state is JobState.SUCCEEDED else _fraction(row.workflow_id, definition, shown),
            steps=shown,
            error=message,
            remedy=remedy,
            result=row.output if state is JobState.SUCCEEDED and isinstance(row.output, dict) else {},
        )

    def _steps(self, job: str, definition: JobDefinition, active: bool) -> list[JobStep]:
        """The steps of the definition, then those that came on top (undoing, for one)."""
        recorded = {step["function_name"]: step for step in DBOS.list_workflow_steps(job)}
        reached = max((number for number, name in enumerate(definition.steps) if name in recorded), default=-1)
        extra = [name for name in recorded if name not in definition.steps and not name.startswith("DBOS.")]
        shown = []
        for number, name in enumerate(definition.steps):
            if name in recorded:
                shown.append(_recorded_step(recorded[name]))
            elif number < reached:
                shown.append(JobStep(name=name, state=JobState.SUCCEEDED, detail="not needed"))
            elif active and number == reached + 1 and not extra:
                progress = progress_of(job)
                shown.append(JobStep(name=name, state=JobState.RUNNING, detail=progress.detail if progress else ""))
            else:
                shown.append(JobStep(name=name, state=JobState.QUEUED if active else JobState.CANCELLED))
        return shown + [_recorded_step(recorded[name]) for name in extra]


def _recorded_step(step: StepInfo) -> JobStep:
    error: Exception | None = step["error"]
    if isinstance(error, DBOSMaxStepRetriesExceeded):
        error = error.errors[-1]
    return JobStep(
        name=step["function_name"],
        state=JobState.SUCCEEDED if error is None else JobState.FAILED,
        started=(step["started_at_epoch_ms"] or 0) * NANOSECONDS,
        ended=(step["completed_at_epoch_ms"] or 0) * NANOSECONDS,
        detail=str(error) if error is not None else "",
    )


def _fraction(job: str, definition: JobDefinition, shown: list[JobStep]) -> float:
    done = sum(step.state is JobState.SUCCEEDED and step.name in definition.steps for step in shown)
    progress = progress_of(job)
    within = progress.fraction if progress is not None else 0.0
    return min(0.99, (done + within) / max(1, len(definition.steps)))


def _request_of(row: WorkflowStatus) -> dict[str, Any]:
    arguments = row.input["args"] if row.input else ()
    return arguments[0] if arguments and isinstance(arguments[0], dict) else {}


def _failure(row: WorkflowStatus) -> tuple[str, str]:
    error = row.error
    if error is None:
        return "", ""
    if isinstance(error, FarshoreError):
        return error.message, error.remedy
    if isinstance(error, DBOSException):
        return str(error), "See the server's log, then start the job again."
    return f"{type(error).__name__}: {error}", "This is a defect: see the server's log, and report it."
