"""The form of a long operation, so that the configuration server can run, show, cancel and resume it.

A job is a DBOS workflow. Relies on: the workflow takes one dictionary that can be JSON, with at least ``subject`` (a
machine id, or what the job is about), and returns one; every side effect is in a step that may run twice, because a
step that was interrupted by a kill is run again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Request = dict[str, Any]
Result = dict[str, Any]


@dataclass(frozen=True)
class JobDefinition:
    """One kind of job. ``run`` is decorated with ``@DBOS.workflow(name=kind)``.

    ``steps`` are the names of its steps, in the order in which they usually run: they make up the steps that users see,
    and the fraction done.
    """

    kind: str
    run: Callable[[Request], Result]
    steps: tuple[str, ...]
    cancel: Callable[[Request], None] | None = None
    """Cancels the job, with its effects undone: it then raises ``Cancelled``. May raise WrongState. None: the job is
    stopped before its next step, or, if it has children, cancelled by a mark."""
    stopped: Callable[[str, Request], None] | None = None
    """Called with the job's id after it was stopped, by a cancel or by an upgrade of the server: clean up after its
    steps. May be called more than once, and while the job's last step is still running."""
    has_children: bool = False
    """Its workflow calls ``run_children``."""
