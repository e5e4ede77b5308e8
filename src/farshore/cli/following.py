"""Follows a job to its end with a progress display."""

from __future__ import annotations

import time

import typer
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from farshore.api_types.jobs import Job
from farshore.cli.output import coloured, err, out, plain, print_json
from farshore.client.management import Management
from farshore.model.errors import TryLater
from farshore.model.states import JobState

ENDED = frozenset({JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED})
POLL_SECONDS = 0.4


def finish(api: Management, job: Job, *, as_json: bool, no_wait: bool = False) -> Job:
    """Follow ``job`` to its end unless ``no_wait`` is set, print the outcome, and exit with status 1 if it failed."""
    if no_wait:
        print_json(job) if as_json else out.print(f"Job {job.id} ({job.kind}) is {job.state.value}.")
        return job
    job = follow(api, job, quiet=as_json)
    if as_json:
        print_json(job)
    elif job.state is JobState.SUCCEEDED:
        out.print(coloured(job.kind, "green", " succeeded."))
    if job.state is not JobState.SUCCEEDED:
        if not as_json:
            err.print(coloured(f"{job.kind} {job.state.value}.", "red", f" {job.error}"))
            if job.remedy:
                err.print(f"Remedy: {job.remedy}")
        raise typer.Exit(1)
    return job


def follow(api: Management, job: Job, *, quiet: bool = False) -> Job:
    """Wait until a job has ended, through restarts of the server."""
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    with Progress(*columns, console=err, disable=quiet or not err.is_terminal, transient=True) as progress:
        task = progress.add_task(job.kind, total=1.0)
        while job.state not in ENDED:
            time.sleep(POLL_SECONDS)
            try:
                job = api.job(job.id)
            except TryLater:
                continue
            running = next((step for step in job.steps if step.state is JobState.RUNNING), None)
            words = [job.kind, running.name if running else "", running.detail if running else ""]
            progress.update(task, completed=job.fraction, description=plain(": ".join(filter(None, words))))
    return job
