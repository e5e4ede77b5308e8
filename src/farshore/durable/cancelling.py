"""Asks jobs to end. A job with children notes it as a mark on its record, which outlives the server: it then starts no
more of them, and asks those that run to end (``children.py``)."""

from __future__ import annotations

from dbos import DBOS

from farshore.durable.jobs import JobDefinition, Request

_MARK = "cancelling"


def ask_to_end(definition: JobDefinition, job: str, request: Request) -> None:
    """Ask an unfinished job to end; repeating it is harmless. Raises WrongState if the job goes to its end."""
    if definition.cancel is not None:
        definition.cancel(request)
    if definition.has_children:
        DBOS.update_workflow_attributes(job, {_MARK: True}, merge=True)
    elif definition.cancel is None:
        stop(definition, job, request)


def stop(definition: JobDefinition, job: str, request: Request) -> None:
    """Stop a job before its next step, and put right what it left."""
    DBOS.cancel_workflow(job)
    if definition.stopped is not None:
        definition.stopped(job, request)


def is_asked_to_end(job: str) -> bool:
    """Return whether a job with children carries the mark. Call it in a step."""
    status = DBOS.get_workflow_status(job)
    return status is not None and bool((status.attributes or {}).get(_MARK))
