"""Convert DBOS' record of a job to what users see: its state, its steps including its children, and its progress.

In: workflows and their recorded steps. Out: farshore.api_types.jobs.Job.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dbos import DBOS, StepInfo, WorkflowStatus
from dbos._error import DBOSMaxStepRetriesExceeded

from farshore.api_types.jobs import Job, JobStep
from farshore.durable.children import child_job
from farshore.durable.jobs import JobDefinition
from farshore.durable.outcomes import ENDED, failure_of, state_of
from farshore.durable.planning import INTERNAL, PlannedStep, planned
from farshore.durable.progress import forget_progress, progress_of
from farshore.model.states import JobState

NANOSECONDS = 1_000_000
"""In milliseconds, which DBOS uses."""


class Showing:
    """Shows the jobs of these definitions, by kind."""

    def __init__(self, definitions: Mapping[str, JobDefinition]) -> None:
        self._definitions = definitions

    def describe(self, row: WorkflowStatus, *, steps: bool) -> Job:
        """Return a job; ``steps``: with its steps, and the children that do them."""
        definition, job = self._definitions[row.name], row.workflow_id
        state = state_of(row)
        if state in ENDED:
            forget_progress(job)
        children = self._children(job) if steps and definition.has_children else {}
        shown, done = self._steps(job, definition, state not in ENDED, children) if steps else ([], 0.0)
        message, remedy = failure_of(row)
        return Job(
            id=job,
            kind=row.name,
            subject=str(request_of(row).get("subject", "")),
            parent=row.parent_workflow_id or "",
            children=len(children),
            executor=row.executor_id or "",
            state=state,
            created=(row.created_at or 0) * NANOSECONDS,
            ended=_end(row, state),
            fraction=1.0 if state is JobState.SUCCEEDED else done,
            steps=shown,
            error=message,
            remedy=remedy,
            result=row.output if state is JobState.SUCCEEDED and isinstance(row.output, dict) else {},
        )

    def _children(self, job: str) -> dict[str, WorkflowStatus]:
        found = DBOS.list_workflows(name=list(self._definitions), parent_workflow_id=job)
        return {row.workflow_id: row for row in found}

    def _steps(
        self, job: str, definition: JobDefinition, active: bool, children: Mapping[str, WorkflowStatus]
    ) -> tuple[list[JobStep], float]:
        """Return the declared and added steps, then additional ones (for example undoing); and the fraction done."""
        all_recorded = DBOS.list_workflow_steps(job)
        recorded = {step["function_name"]: step for step in all_recorded}
        steps = planned(definition.steps, all_recorded)
        names = {step.name for step in steps}
        kinds = {row.name for row in children.values()}  # DBOS records the start of a child under its kind
        extra = [name for name in recorded if name not in names | kinds and not name.startswith(INTERNAL)]
        reached = _reached(job, steps, recorded, children)
        shown, done = [], 0.0
        for number, step in enumerate(steps):
            child = children.get(child_job(job, step.name)) if step.child else None
            if child is not None:
                one, part = self._child_step(step.name, child)
            elif step.child:
                one, part = _unstarted_child(step.name, recorded.get(step.name), active and number > reached), 0.0
            elif step.name in recorded:
                one, part = _recorded_step(recorded[step.name]), 0.0
            elif number < reached:
                one, part = JobStep(name=step.name, state=JobState.SUCCEEDED, detail="not needed"), 0.0
            elif active and number == reached + 1 and not extra:
                progress = progress_of(job)
                one = JobStep(name=step.name, state=JobState.RUNNING, detail=progress.detail if progress else "")
                part = progress.fraction if progress else 0.0
            else:
                one, part = JobStep(name=step.name, state=JobState.QUEUED if active else JobState.CANCELLED), 0.0
            shown.append(one)
            done += 1.0 if one.state is JobState.SUCCEEDED else part
        fraction = min(0.99, done / max(1, len(steps)))
        return shown + [_recorded_step(recorded[name]) for name in extra], fraction

    def _child_step(self, name: str, row: WorkflowStatus) -> tuple[JobStep, float]:
        """Return a child as a step of its parent, and its progress: its present step, or its result."""
        state, (error, _) = state_of(row), failure_of(row)
        detail, fraction = error, 0.0
        if state is JobState.RUNNING:
            job = self.describe(row, steps=True)
            detail = next((step.name for step in job.steps if step.state is JobState.RUNNING), "")
            fraction = job.fraction
        created, ended = (row.created_at or 0) * NANOSECONDS, _end(row, state)
        return (
            JobStep(name=name, state=state, started=created, ended=ended, detail=detail, job=row.workflow_id),
            fraction,
        )


def request_of(row: WorkflowStatus) -> dict[str, Any]:
    """Return the request with which the job was started."""
    arguments = row.input["args"] if row.input else ()
    return arguments[0] if arguments and isinstance(arguments[0], dict) else {}


def _reached(
    job: str, steps: Sequence[PlannedStep], recorded: Mapping[str, StepInfo], children: Mapping[str, WorkflowStatus]
) -> int:
    """Return the number of the last step that has ended, or is a running child; -1 if there is none."""
    begun = (
        number
        for number, step in enumerate(steps)
        if step.name in recorded or (step.child and child_job(job, step.name) in children)
    )
    return max(begun, default=-1)


def _unstarted_child(name: str, recorded: StepInfo | None, may_come: bool) -> JobStep:
    """Return a step for a child without a record: it is still to come, could not be prepared, or was never started."""
    if recorded is not None and recorded["error"] is not None:
        return _recorded_step(recorded)
    if may_come or (recorded is not None and recorded["output"]):
        return JobStep(name=name, state=JobState.QUEUED)
    return JobStep(name=name, state=JobState.CANCELLED, detail="not started")


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


def _end(row: WorkflowStatus, state: JobState) -> int:
    return (row.completed_at or row.updated_at or 0) * NANOSECONDS if state in ENDED else 0
