"""Long operations."""

from __future__ import annotations

import enum
from typing import Any, Dict, List

from farshore.api_types.body import Body, Label, Moment
from farshore.model.states import JobState


class OnFailure(enum.Enum):
    """What happens to a job's other children when one has failed, or was cancelled alone."""

    GO_ON = "go-on"
    """All of them are run."""
    STOP = "stop"
    """No more are started; running ones continue to their end."""
    CANCEL = "cancel"
    """No more are started, and running ones are cancelled, the newest first."""


class JobStep(Body):
    """One idempotent step of a job. ``job``: the child that does it, once that has started."""

    name: str
    state: JobState
    started: Moment = 0
    ended: Moment = 0
    detail: str = ""
    job: str = ""


class Job(Body):
    """A durable workflow. ``fraction`` is 0…1; ``result`` depends on the kind. ``executor`` is the id of the
    configuration server that runs it, or ran it last. ``parent`` is the job that started it; ``children`` counts the
    jobs that it has started so far."""

    id: str
    kind: str
    subject: str
    state: JobState
    parent: str = ""
    children: int = 0
    executor: str = ""
    created: Moment
    ended: Moment = 0
    fraction: float = 0
    steps: List[JobStep] = []
    error: str = ""
    remedy: str = ""
    result: Dict[str, Any] = {}


class JobRecovery(Body):
    """Resume the unfinished jobs of a configuration server that is permanently gone (``POST /v1/jobs/recovery``)."""

    executor: Label


class RecoveredJobs(Body):
    """The resumed jobs."""

    jobs: List[Job]
