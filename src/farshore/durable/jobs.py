"""What a long operation must look like for the configuration server to run, show, cancel and resume it.

A job is a DBOS workflow. Relies on: the workflow taking one JSON-able dictionary, with at least ``subject`` (a machine
id, or what the job is about), and answering one; every side effect sitting in a step that may run twice, because a step
that was cut off by a kill is run again.
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
    """Ask the job to end by itself, its effects undone: it then raises ``Cancelled``. May raise WrongState. None: the
    job is stopped before its next step, or, if it has children, asked to end by a mark."""
    stopped: Callable[[str, Request], None] | None = None
    """Called with the job's id once it was stopped, by a cancel or by an upgrade of the server: put right what its
    steps left. May be called more than once, and while the job's last step is still under way."""
    has_children: bool = False
    """Its workflow calls ``run_children``."""
