"""Run a step of a job, and repeat it while its error is temporary.

The error decides: TryLater is repeated, all others are not. Called in workflows only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ParamSpec, TypeVar

from dbos import DBOS, StepOptions
from dbos._error import DBOSMaxStepRetriesExceeded

from farshore.model.errors import TryLater

P = ParamSpec("P")
R = TypeVar("R")

_BACKOFF = 2.0


@dataclass(frozen=True)
class Persistence:
    """The number of tries of a step, and the seconds before the second try; each later pause is twice as long."""

    attempts: int
    pause: float = 0.5


ONCE = Persistence(1)
"""For a step that waited itself, and says so by a temporary error."""
USUAL = Persistence(6)
"""Half a minute in all: longer than a lock is held or a server starts."""
STUBBORN = Persistence(12)
"""A quarter of an hour: for a step that must not be left half done."""


def run_step(name: str, persistence: Persistence, step: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Return the step's result, from the job's record if it exists. Raises the last try's error."""
    options: StepOptions = {
        "name": name,
        "retries_allowed": True,
        "should_retry": _passes,
        "max_attempts": persistence.attempts,
        "interval_seconds": persistence.pause,
        "backoff_rate": _BACKOFF,
    }
    try:
        return DBOS.run_step(options, step, *args, **kwargs)
    except DBOSMaxStepRetriesExceeded as error:
        raise error.errors[-1] from None


def _passes(error: BaseException) -> bool:
    return isinstance(error, TryLater)
