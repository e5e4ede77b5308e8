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
"""The executor's id of every server of the releases in which servers had none of their own."""
GENERATION = "5"
"""Raise it where a job's order of steps changes: what an older generation left unfinished is stopped then."""


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
        """Start the engine; this server's unfinished jobs go on from their last completed step.

        So do those that can be nobody else's: all of a SQLite database, which one server has to itself, and those that
        servers without an id of their own left. Those of older generations end, whosever they are.
        """
        DBOS.launch()
        for row in DBOS.list_workflows(name=list(self._definitions), status=list(UNFINISHED)):
            if row.app_version != GENERATION:
                try:
                    stop(self._definitions[row.name], row.workflow_id, request_of(row))
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
        """Return one job with its steps. Raises NotFound."""
        return self._showing.describe(self._found(job), steps=True)

    def _found(self, job: JobId) -> WorkflowStatus:
        found = DBOS.list_workflows(workflow_ids=[job])
        if not found or found[0].name not in self._definitions:
            raise NotFound(f"There is no job {job}.", remedy="See `farshore job list`.")
        return found[0]

    def listed(self, limit: int = 100, parent: JobId | None = None) -> list[Job]:
        """Return jobs without their steps: those that have no parent, the newest first, or the children of one, the
        oldest first. Raises NotFound for an unknown parent."""
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
        """Ask a job to end, and with it its children. Raises NotFound, WrongState if it has ended, or goes to its
        end."""
        row = self._found(job)
        state = state_of(row)
        if state in ENDED:
            raise WrongState(f"Job {job} has already {state.value}.", remedy="There is nothing to cancel.")
        ask_to_end(self._definitions[row.name], job, request_of(row))
        return self.show(job)

    def recover(self, executor: str) -> list[Job]:
        """Resume the unfinished jobs of a server that is gone for good; the jobs. One that still runs would do their
        present steps a second time. Raises NotFound if there are none, WrongState for this server itself."""
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
        """The executors under whose ids jobs stand that have begun and not ended."""
        found = DBOS.list_workflows(status="PENDING", load_input=False, load_output=False)
        return {row.executor_id for row in found if row.executor_id is not None}

    def _resume(self, executors: set[str]) -> list[JobId]:
        if not executors:
            return []
        # DBOS has no other name for it; what a server resumes under its own id goes the same way.
        return [JobId(handle.workflow_id) for handle in DBOS._recover_pending_workflows(sorted(executors))]
