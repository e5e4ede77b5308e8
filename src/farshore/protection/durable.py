"""What a long operation must look like for the configuration server to run, show and resume it.

A job is a DBOS workflow. The folders that know how to do something long (recovery, protection) declare a
``JobDefinition`` for it; configuration_server/jobs registers, starts, lists and cancels them. Relies on: the workflow
taking one JSON-able dictionary, with at least ``subject`` (a machine id, or what the job is about), and answering one;
every side effect sitting in a step that may run twice, because a step that was cut off by a kill is run again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from dbos import DBOS

Request = dict[str, Any]
Result = dict[str, Any]


@dataclass(frozen=True)
class JobDefinition:
    """One kind of job. ``run`` is decorated with ``@DBOS.workflow(name=kind)``.

    ``steps`` are the names given to ``@DBOS.step(name=…)``, in the order in which they usually run: they make up the
    steps that users see, and the fraction done.
    """

    kind: str
    run: Callable[[Request], Result]
    steps: tuple[str, ...]


@dataclass(frozen=True)
class StepProgress:
    """How far the step ``step_id`` of a job is: ``fraction`` is 0…1."""

    step_id: int
    fraction: float
    detail: str


_progress: dict[str, StepProgress] = {}
"""By job. In memory only: a step that is run again after a kill reports again."""


def report_progress(fraction: float, detail: str = "") -> None:
    """Say from inside a step how far it is, ``fraction`` 0…1, for ``farshore job watch``. Elsewhere: no effect."""
    job, step = DBOS.workflow_id, DBOS.step_id
    if job and step is not None:
        _progress[job] = StepProgress(step, max(0.0, min(1.0, fraction)), detail)


def progress_of(job: str) -> StepProgress | None:
    """What the job's step reported last, in this process."""
    return _progress.get(job)


def forget_progress(job: str) -> None:
    """Drop what a job that has ended reported."""
    _progress.pop(job, None)
