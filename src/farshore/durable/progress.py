"""The progress of a job's step, for ``farshore job watch``. In memory only: a step that is run again reports again."""

from __future__ import annotations

from dataclasses import dataclass

from dbos import DBOS


@dataclass(frozen=True)
class StepProgress:
    """The progress of the job's step ``step_id``: ``fraction`` is 0…1."""

    step_id: int
    fraction: float
    detail: str


_progress: dict[str, StepProgress] = {}
"""By job id."""


def report_progress(fraction: float, detail: str = "") -> None:
    """Report progress from inside a step, ``fraction`` 0…1. Elsewhere: no effect."""
    job, step = DBOS.workflow_id, DBOS.step_id
    if job and step is not None:
        _progress[job] = StepProgress(step, max(0.0, min(1.0, fraction)), detail)


def end_progress() -> None:
    """Report from inside a step that it ends, so its progress does not count for the next one. Elsewhere: no effect."""
    if DBOS.workflow_id:
        forget_progress(DBOS.workflow_id)


def progress_of(job: str) -> StepProgress | None:
    """Return what the job's step reported last, in this process."""
    return _progress.get(job)


def forget_progress(job: str) -> None:
    """Drop what a job that has ended reported."""
    _progress.pop(job, None)
