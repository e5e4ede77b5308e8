"""``farshore job``: long operations."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

import typer

from farshore.api_types.jobs import Job, JobRecovery
from farshore.api_types.users import Role
from farshore.cli.asking import ask
from farshore.cli.connection import AsJson, Yes, management
from farshore.cli.following import finish
from farshore.cli.output import ago, duration, moment, out, print_fields, print_json, print_table
from farshore.client.management import Management
from farshore.client.transport import segment

app = typer.Typer(no_args_is_help=True, help="Long operations: list, show, watch, cancel.")
_BAR = 24
"""Width of the progress bar in characters."""
JobId = Annotated[str, typer.Argument(metavar="JOB", help="The job's id.", show_default=False)]
_MOST = 1000
"""Limit of children that are listed for a job."""


@app.command("list")
def list_jobs(
    limit: Annotated[int, typer.Option(min=1, help="Show at most N jobs, newest first.")] = 20, as_json: AsJson = False
) -> None:
    """List jobs, newest first. The jobs that a job started are listed below it, oldest first."""
    api = management()
    jobs = api.jobs(limit)
    if as_json:
        print_json(jobs)
        return
    rows = [
        [f"{'  ' * depth}{job.id}", job.kind, job.subject, job.state.value, ago(job.created), job.error]
        for depth, job in _tree(api, jobs)
    ]
    print_table(("Job", "Kind", "Subject", "State", "Started", "Error"), rows, "There are no jobs.")


@app.command()
def show(job: JobId, as_json: AsJson = False) -> None:
    """Show a job with its steps."""
    found = management().job(job)
    if as_json:
        print_json(found)
        return
    print_job(found)


@app.command()
def watch(job: JobId, as_json: AsJson = False) -> None:
    """Follow a job until it ends. Exits with status 1 if it failed."""
    api = management()
    finish(api, api.job(job), as_json=as_json)


@app.command()
def cancel(job: JobId, as_json: AsJson = False) -> None:
    """Cancel a job. A failover is undone, and its source continues; other jobs stop before their next step.

    A job with children starts no more of them, cancels the running ones, newest first, and waits for them.
    """
    cancelled = management().transport.post(f"/v1/jobs/{segment(job)}/cancel", None, Job)
    print_json(cancelled) if as_json else out.print(f"Job {job} is {cancelled.state.value}.")


@app.command()
def recover(
    server: Annotated[str, typer.Argument(help="Server id, as `farshore job show` prints it.", show_default=False)],
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Resume the jobs of a configuration server that is lost, on the other servers of the same database.

    A server that restarts resumes its own jobs. Never use this for a server that still runs.

    Example: `farshore job recover 3f0c7d52-8a8e-4c39-a4b0-5a3e1c5d9b11`
    """
    api = management()
    ask(api, Role.CONTRIBUTOR, f"Resume the jobs of configuration server {server}? It must be gone for good.", yes=yes)
    found = api.recover_jobs(JobRecovery(executor=server))
    if as_json:
        print_json(found)
        return
    for job in found:
        out.print(f"Job {job.id} ({job.kind}) was resumed.")


def _tree(api: Management, jobs: list[Job], depth: int = 0) -> Iterator[tuple[int, Job]]:
    """Return the jobs with all their descendants, and the depth of each."""
    for job in jobs:
        yield depth, job
        if job.children:
            yield from _tree(api, api.jobs(limit=_MOST, parent=job.id), depth + 1)


def bar(fraction: float) -> str:
    """Draw a progress bar for a fraction between 0 and 1; "" for 0 and 1."""
    done = int(_BAR * fraction)
    return f"{'━' * done}{'·' * (_BAR - done)} " if 0 < fraction < 1 else ""


def print_job(job: Job) -> None:
    """Print a job and its steps."""
    print_fields(
        [
            ("Job", job.id),
            ("Kind", job.kind),
            ("Subject", job.subject),
            ("Part of", job.parent),
            ("State", f"{job.state.value} {bar(job.fraction)}({job.fraction:.0%})"),
            ("Started", moment(job.created)),
            ("Ended", moment(job.ended) if job.ended else ""),
            ("Server", job.executor),
            ("Error", job.error),
            ("Remedy", job.remedy),
            *((name, str(value)) for name, value in job.result.items()),
        ]
    )
    rows = []
    for step in job.steps:
        took = duration((step.ended - step.started) / 1e9) if step.ended and step.started else ""
        rows.append([step.name, step.state.value, took, step.detail, *([step.job] if job.children else [])])
    if rows:
        out.print()
        print_table(("Step", "State", "Took", "Detail", *(("Job",) if job.children else ())), rows, "")
