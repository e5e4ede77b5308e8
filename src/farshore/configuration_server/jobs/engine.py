"""Launch DBOS and map its workflows to jobs.

In: job definitions of recovery and protection. Out: farshore.api_types.jobs.Job. Relies on: one configuration server
per job database (SQLite), or several on one PostgreSQL database. A job's kind and subject come from its workflow's name
and its request's ``subject``.

Each server is an *executor* with its own id (``installation.executor``), which is in the record of each job that it
runs. A server that starts resumes the jobs under its own id: they were interrupted when it ended. It does not touch
jobs under another server's id, which may be running there; ``recover`` resumes those of a server that is permanently
gone, when a user has said so. Resumed jobs go into one queue, from which all servers of a job database take: a job may
continue at another server than the one where it began.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable

from dbos import DBOS, DBOSConfig, SetWorkflowID, WorkflowStatus

from farshore.api_types.jobs import Job
from farshore.configuration_server.jobs.showing import Showing, request_of
from farshore.configuration_server.jobs.sqlite_file import engine_settings
from farshore.durable.cancelling import ask_to_end, stop
from farshore.durable.jobs import JobDefinition, Request
from farshore.durable.outcomes import ENDED, UNFINISHED, state_of
from farshore.model.errors import FarshoreError, NotFound, Unsupported, WrongState
from farshore.model.identifiers import JobId, new_id

log = logging.getLogger(__name__)

APPLICATION = "farshore"
ALONE = "configuration-server"
"""The executor's id of all servers of releases in which servers had no ids of their own."""
GENERATION = "6"
"""Increase it if a job's order of steps changes: unfinished jobs of an older generation are then stopped."""


class _Refusals(logging.Filter):
    """DBOS logs every failed job with its traceback. If the job was refused, its record has all information."""

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, FarshoreError):
            what = "A job failed" if record.levelno >= logging.ERROR else "A step is tried again"
            record.msg, record.args, record.exc_info = f"{what}: {error}", (), None
        return True


_REFUSALS = _Refusals()


class JobEngine:
    """The jobs of one configuration server. Create it before ``launch``; the definitions' workflows must be
    imported."""

    def __init__(self, database_url: str, definitions: Iterable[JobDefinition], executor: str = ALONE) -> None:
        self._definitions = {definition.kind: definition for definition in definitions}
        self._showing = Showing(self._definitions)
        self._executor = executor
        self._only_one = database_url.startswith("sqlite")
        config: DBOSConfig = {
            "name": APPLICATION,
            "system_database_url": database_url,
            "application_version": GENERATION,
            "executor_id": executor,
            "log_level": "WARNING",
            "enable_otlp": False,
            "db_engine_kwargs": engine_settings(database_url),
        }
        self._dbos = DBOS(config=config)
        logging.getLogger("dbos").addFilter(_REFUSALS)

    def launch(self) -> None:
        """Start the engine; this server's unfinished jobs continue after their last completed step.

        So do those that can belong to no other server: all jobs of a SQLite database, which has one server only, and
        those that servers without their own id left. Jobs of older generations end, whichever server had them."""
        DBOS.launch()
        for row in DBOS.list_workflows(name=list(self._definitions), status=list(UNFINISHED)):
            if row.app_version != GENERATION:
                try:
                    stop(self._definitions[row.name], row.workflow_id, request_of(row))
                except (FarshoreError, OSError) as error:  # one job must not prevent the server's start
                    log.error(
                        "The remains of job %s of an earlier release could not be cleaned up: %s", row.name, error
                    )
        left = self._unfinished() if self._only_one else {ALONE}
        self._resume(left - {self._executor})

    def close(self, patience: int = 0) -> None:
        """Stop. Jobs that still run after ``patience`` seconds continue at the next launch."""
        DBOS.destroy(workflow_completion_timeout_sec=patience)

    def start(self, kind: str, request: Request, job: JobId | None = None) -> Job:
        """Start a job; if the id exists already, return that job and start nothing."""
        definition = self._definitions.get(kind)
        if definition is None:
            raise Unsupported(f"This server has no {kind} jobs.", remedy="Upgrade the configuration server.")
        chosen = job or JobId(new_id())
        with SetWorkflowID(chosen):
            DBOS.start_workflow(definition.run, request)
        return self.show(chosen)

    def show(self, job: JobId) -> Job:
        """Return one job with its steps. Raises NotFound."""
        return self._showing.describe(self._found(job), steps=True)

    def _found(self, job: JobId) -> WorkflowStatus:
        found = DBOS.list_workflows(workflow_ids=[job])
        if not found or found[0].name not in self._definitions:
            raise NotFound(f"There is no job {job}.", remedy="See `farshore job list`.")
        return found[0]

    def listed(self, limit: int = 100, parent: JobId | None = None) -> list[Job]:
        """Return jobs without their steps: those without a parent, newest first, or the children of one, oldest first.
        Raises NotFound for an unknown parent."""
        kinds = list(self._definitions)
        if parent is not None:
            self._found(parent)
            rows = DBOS.list_workflows(name=kinds, parent_workflow_id=parent, limit=limit)
        else:
            rows = DBOS.list_workflows(name=kinds, has_parent=False, limit=limit, sort_desc=True)
        parents = [row.workflow_id for row in rows if self._definitions[row.name].has_children]
        counts = Counter(row.parent_workflow_id for row in self._children(parents))
        shown = [self._showing.describe(row, steps=False) for row in rows]
        return [job.model_copy(update={"children": counts[job.id]}) for job in shown]

    def _children(self, parents: list[str]) -> list[WorkflowStatus]:
        if not parents:
            return []
        return DBOS.list_workflows(parent_workflow_id=parents, load_input=False, load_output=False)

    def cancel(self, job: JobId) -> Job:
        """Cancel a job, and its children with it. Raises NotFound, WrongState if it has ended, or can no longer be
        cancelled."""
        row = self._found(job)
        state = state_of(row)
        if state in ENDED:
            raise WrongState(f"Job {job} has already {state.value}.", remedy="There is nothing to cancel.")
        ask_to_end(self._definitions[row.name], job, request_of(row))
        return self.show(job)

    def recover(self, executor: str) -> list[Job]:
        """Resume the unfinished jobs of a server that is permanently gone; return them. If that server still runs,
        their present steps are done twice. Raises NotFound if there are none, WrongState for this server itself."""
        if executor == self._executor:
            raise WrongState(
                f"{executor} is this server, which resumes its own jobs when it starts.",
                remedy="Give the id of a server that is lost; `farshore job show JOB` prints it.",
            )
        resumed = self._resume({executor})
        if not resumed:
            raise NotFound(
                f"Server {executor} has no unfinished jobs.",
                remedy="See `farshore job list`; `farshore job show JOB` prints a job's server.",
            )
        return [self.show(job) for job in resumed]

    def _unfinished(self) -> set[str]:
        """Return the executors that have jobs which have begun and not ended."""
        found = DBOS.list_workflows(status="PENDING", load_input=False, load_output=False)
        return {row.executor_id for row in found if row.executor_id is not None}

    def _resume(self, executors: set[str]) -> list[JobId]:
        if not executors:
            return []
        # DBOS has no other name for it; jobs that a server resumes under its own id go the same way.
        return [JobId(handle.workflow_id) for handle in DBOS._recover_pending_workflows(sorted(executors))]
