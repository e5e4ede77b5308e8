"""Jobs that a job starts as its children, and waits for.

A child is a job like any other: it has a record, steps and its own undoing. It is started under an id made from its
parent's and its step's name, in one transaction with the parent's step (DBOS), so an interrupted parent finds it again
and starts nothing twice.

Cancelling a parent, in this order: it is marked; it starts no more children; running children are cancelled, the newest
first; it ends once all of them have ended. A child that can no longer be cancelled is waited for. A parent never ends
before its children, unless an upgrade of the server stops it: then they are stopped as well.

Called in workflows whose definition says ``has_children``.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from dbos import DBOS, SetWorkflowID, WorkflowStatus

from farshore.api_types.jobs import OnFailure
from farshore.durable.cancelling import ask_to_end, is_asked_to_end
from farshore.durable.jobs import JobDefinition, Request, Result
from farshore.durable.outcomes import ENDED, failure_of, state_of
from farshore.durable.planning import add_steps
from farshore.durable.steps import STUBBORN, USUAL, run_step
from farshore.model.errors import FarshoreError, Malformed, TryLater
from farshore.model.states import JobState

log = logging.getLogger(__name__)

MOST_CHILDREN = 256
"""Maximum that one call may start."""
MOST_AT_ONCE = 16
_WAIT, _ASK = "farshore.wait_for_children", "farshore.ask_children_to_end"
_POLL_SECONDS = 0.1


@dataclass(frozen=True)
class Child:
    """A job to be started. ``step`` is its name among its parent's steps; ``prepare`` runs in a step before it starts,
    perhaps more than once."""

    step: str
    definition: JobDefinition
    request: Request
    prepare: Callable[[], None] | None = None


@dataclass(frozen=True)
class Outcome:
    """How a child ended; ``job`` is "" for one that was never started. Its state is then CANCELLED, or FAILED if it
    could not be prepared."""

    step: str
    state: JobState
    job: str = ""
    error: str = ""
    remedy: str = ""
    result: Result = field(default_factory=dict)


@dataclass(frozen=True)
class Ended:
    """The outcomes in the order of the children; ``cancelled``: a user cancelled the parent."""

    outcomes: list[Outcome]
    cancelled: bool


def child_job(parent: str, step: str) -> str:
    """Return the id of the child that is this step of its parent."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"farshore:{parent}/{step}"))


def run_children(children: Sequence[Child], *, at_once: int = 1, on_failure: OnFailure = OnFailure.GO_ON) -> Ended:
    """Run the children, started in the given order, at most ``at_once`` at the same time, and wait until all have
    ended.

    A child's failure raises nothing: the parent decides what it means. Raises Malformed for too many."""
    if len(children) > MOST_CHILDREN or not 1 <= at_once <= MOST_AT_ONCE:
        raise Malformed(
            f"A job starts at most {MOST_CHILDREN} jobs, of which {MOST_AT_ONCE} run at the same time.",
            remedy="Split the work into several jobs.",
        )
    add_steps([child.step for child in children], children=True)
    return _Family(str(DBOS.workflow_id), children, at_once, on_failure).run()


class _Family:
    """The children of one call. All its decisions depend on recorded steps, so a resumed parent decides alike."""

    def __init__(self, parent: str, children: Sequence[Child], at_once: int, on_failure: OnFailure) -> None:
        self._parent, self._children = parent, children
        self._at_once, self._on_failure = at_once, on_failure
        self._outcomes: dict[str, Outcome] = {}
        self._running: dict[str, Child] = {}
        """By job, in the order of their start."""
        self._asked = self._cancelled = self._stopping = False

    def run(self) -> Ended:
        waiting = list(self._children)
        while True:
            while waiting and not self._stopping and len(self._running) < self._at_once:
                self._begin(waiting.pop(0))
            if not self._running:
                break
            self._settle(run_step(_WAIT, USUAL, self._wait, list(self._running), not self._cancelled))
        never = [Outcome(child.step, JobState.CANCELLED) for child in waiting]
        found = self._outcomes | {one.step: one for one in never}
        return Ended([found[child.step] for child in self._children], self._cancelled)

    def _begin(self, child: Child) -> None:
        try:
            go = run_step(child.step, USUAL, self._prepare, child)
        except (FarshoreError, OSError) as error:
            remedy = error.remedy if isinstance(error, FarshoreError) else ""
            message = error.message if isinstance(error, FarshoreError) else str(error)
            self._note(Outcome(child.step, JobState.FAILED, error=message, remedy=remedy))
            self._ask_all()
            return
        if not go:
            self._outcomes[child.step] = Outcome(child.step, JobState.CANCELLED)
            self._cancelled = self._stopping = True
            self._ask_all()
            return
        job = child_job(self._parent, child.step)
        with SetWorkflowID(job):
            DBOS.start_workflow(child.definition.run, child.request)
        self._running[job] = child

    def _prepare(self, child: Child) -> bool:
        """Return whether the child may start."""
        if is_asked_to_end(self._parent):
            return False
        if child.prepare is not None:
            child.prepare()
        return True

    def _wait(self, jobs: list[str], heed: bool) -> dict[str, Any]:
        """Wait until one has ended, or, if ``heed`` is set, for the parent's mark."""
        while True:
            asked = heed and is_asked_to_end(self._parent)
            rows = {row.workflow_id: row for row in DBOS.list_workflows(workflow_ids=jobs, load_input=False)}
            ended = {job: _ending(rows.get(job)) for job in jobs if job not in rows or state_of(rows[job]) in ENDED}
            if asked or ended:
                return {"asked": asked, "ended": ended}
            time.sleep(_POLL_SECONDS)

    def _settle(self, seen: dict[str, Any]) -> None:
        for job in [job for job in self._running if job in seen["ended"]]:
            state, error, remedy, result = seen["ended"][job]
            self._note(Outcome(self._running.pop(job).step, JobState(state), job, error, remedy, result))
        if seen["asked"]:
            self._cancelled = self._stopping = True
        self._ask_all()

    def _note(self, outcome: Outcome) -> None:
        self._outcomes[outcome.step] = outcome
        if outcome.state is not JobState.SUCCEEDED and self._on_failure is not OnFailure.GO_ON:
            self._stopping = True

    def _ask_all(self) -> None:
        """Cancel the running children, once, if that is due."""
        due = self._cancelled or (self._stopping and self._on_failure is OnFailure.CANCEL)
        if due and self._running and not self._asked:
            self._asked = True
            run_step(_ASK, STUBBORN, self._ask, list(reversed(self._running)))

    def _ask(self, jobs: list[str]) -> None:
        for job in jobs:
            child = self._running[job]
            try:
                ask_to_end(child.definition, job, child.request)
            except TryLater:
                raise
            except FarshoreError as error:  # it can no longer be cancelled, and is waited for
                log.info("Job %s was not cancelled with its parent: %s", job, error)


def _ending(row: WorkflowStatus | None) -> list[Any]:
    if row is None:
        return [JobState.FAILED.value, "Its record is gone.", "Start the job again.", {}]
    state, (error, remedy) = state_of(row), failure_of(row)
    result = row.output if state is JobState.SUCCEEDED and isinstance(row.output, dict) else {}
    return [state.value, error, remedy, result]
