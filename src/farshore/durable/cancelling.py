"""Cancel jobs. For a job with children this sets a mark on its record, which outlives the server: then the job starts
no more children, and cancels those that run (``children.py``)."""

from __future__ import annotations

from dbos import DBOS

from farshore.durable.jobs import JobDefinition, Request

_MARK = "cancelling"


def ask_to_end(definition: JobDefinition, job: str, request: Request) -> None:
    """Cancel an unfinished job; repeating it is harmless. Raises WrongState if the job can no longer be cancelled."""
    if definition.cancel is not None:
        definition.cancel(request)
    if definition.has_children:
        DBOS.update_workflow_attributes(job, {_MARK: True}, merge=True)
    elif definition.cancel is None:
        stop(definition, job, request)


def stop(definition: JobDefinition, job: str, request: Request) -> None:
    """Stop a job before its next step, and clean up after it."""
    DBOS.cancel_workflow(job)
    if definition.stopped is not None:
        definition.stopped(job, request)


def is_asked_to_end(job: str) -> bool:
    """Return whether a job with children carries the mark. Call it in a step."""
    status = DBOS.get_workflow_status(job)
    return status is not None and bool((status.attributes or {}).get(_MARK))
