"""Long operations."""

from __future__ import annotations

from typing import Any, Dict, List

from farshore.api_types.body import Body, Label
from farshore.model.states import JobState


class JobStep(Body):
    """One idempotent step of a job."""

    name: str
    state: JobState
    started: int = 0
    ended: int = 0
    detail: str = ""


class Job(Body):
    """A durable workflow. ``fraction`` is 0…1; ``result`` depends on the kind. ``executor`` is the id of the
    configuration server that runs it, or ran it last."""

    id: str
    kind: str
    subject: str
    state: JobState
    executor: str = ""
    created: int
    ended: int = 0
    fraction: float = 0
    steps: List[JobStep] = []
    error: str = ""
    remedy: str = ""
    result: Dict[str, Any] = {}


class JobRecovery(Body):
    """Resume the unfinished jobs of a configuration server that is gone for good (``POST /v1/jobs/recovery``)."""

    executor: Label


class RecoveredJobs(Body):
    """The jobs that go on."""

    jobs: List[Job]
