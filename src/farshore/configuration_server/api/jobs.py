"""Routes for long operations."""

from __future__ import annotations

from typing import Annotated

from fastapi import Query

from farshore.api_types.jobs import Job, JobRecovery, RecoveredJobs
from farshore.catalog import events
from farshore.configuration_server.api.parameters import Named, Wanted
from farshore.configuration_server.web.callers import Contributor, Installation, Operator, Reader
from farshore.configuration_server.web.gate import GatedRouter
from farshore.model.identifiers import JobId

router = GatedRouter(prefix="/v1/jobs", tags=["jobs"])


@router.get("")
def list_jobs(
    _user: Reader,
    installation: Installation,
    limit: Annotated[int, Query(ge=1, le=1000)] = 50,
    parent: Wanted = None,
) -> list[Job]:
    """Return jobs without their steps, newest first, except those that other jobs started. With ``parent``: the jobs
    that this one started, in that order."""
    return installation.jobs.listed(limit, JobId(parent) if parent is not None else None)


@router.get("/{job}")
def show_job(job: Named, _user: Reader, installation: Installation) -> Job:
    """Return one job with its steps, including its children."""
    return installation.jobs.show(JobId(job))


@router.post("/recovery")
def recover_jobs(request: JobRecovery, user: Contributor, installation: Installation) -> RecoveredJobs:
    """Resume the unfinished jobs of a configuration server that is permanently gone. If it still runs, their present
    steps are done twice."""
    found = installation.jobs.recover(request.executor)
    with installation.catalog.writing() as tx:
        events.record(
            tx,
            time=installation.clock.now(),
            kind="job.recovered",
            actor=user.actor,
            subject=f"server/{request.executor}",
            message=f"{len(found)} unfinished jobs of server {request.executor} were resumed.",
            detail={"jobs": [job.id for job in found]},
        )
    return RecoveredJobs(jobs=found)


@router.post("/{job}/cancel")
def cancel_job(job: Named, user: Operator, installation: Installation) -> Job:
    """Cancel a job: a failover is undone, a job with children cancels them, others stop before their next step."""
    cancelled = installation.jobs.cancel(JobId(job))
    with installation.catalog.writing() as tx:
        events.record(
            tx,
            time=installation.clock.now(),
            kind="job.cancelled",
            actor=user.actor,
            subject=f"job/{job}",
            message=f"Cancellation of the {cancelled.kind} job of {cancelled.subject} was requested.",
        )
    return cancelled
