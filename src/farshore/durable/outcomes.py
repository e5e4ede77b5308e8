"""The state or result of a job, from DBOS' record of it."""

from __future__ import annotations

from dbos import WorkflowStatus
from dbos._error import DBOSException

from farshore.model.errors import Cancelled, FarshoreError
from farshore.model.states import JobState

_STATES = {
    "PENDING": JobState.RUNNING,
    "ENQUEUED": JobState.QUEUED,
    "DELAYED": JobState.WAITING,
    "SUCCESS": JobState.SUCCEEDED,
    "ERROR": JobState.FAILED,
    "MAX_RECOVERY_ATTEMPTS_EXCEEDED": JobState.FAILED,
    "CANCELLED": JobState.CANCELLED,
}
UNFINISHED = ("PENDING", "ENQUEUED", "DELAYED")
ENDED = frozenset({JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED})


def state_of(row: WorkflowStatus) -> JobState:
    """Return the job's state. One that ended by raising Cancelled was cancelled."""
    return JobState.CANCELLED if isinstance(row.error, Cancelled) else _STATES[row.status]


def failure_of(row: WorkflowStatus) -> tuple[str, str]:
    """Return the error, and what to do about it; twice "" if there is none."""
    error = row.error
    if error is None:
        return "", ""
    if isinstance(error, FarshoreError):
        return error.message, error.remedy
    if isinstance(error, DBOSException):
        return str(error), "See the server's log, then start the job again."
    return f"{type(error).__name__}: {error}", "This is a defect: see the server's log, and report it."
