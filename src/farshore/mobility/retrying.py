"""Retry after a temporary error: wait, with jitter and growing pauses, until it passes or the work is stopped."""

from __future__ import annotations

import logging
import threading
from typing import Callable, TypeVar

from farshore.backoff import Backoff
from farshore.model.errors import TryLater

log = logging.getLogger(__name__)

FIRST_PAUSE = 0.2
LONGEST_PAUSE = 5.0
Result = TypeVar("Result")


class Stopped(Exception):
    """The work was stopped; not an error."""


class Pauses:
    """The pauses between attempts."""

    def __init__(self, stop: threading.Event) -> None:
        self._stop = stop
        self._backoff = Backoff(FIRST_PAUSE, LONGEST_PAUSE)

    def rest(self, error: TryLater) -> None:
        """Wait after ``error``. Raises Stopped."""
        if self._stop.wait(self._backoff.pause(error.after or 0.0)):
            raise Stopped

    def reset(self) -> None:
        """Begin with short pauses again, after a success."""
        self._backoff.reset()


def until_done(work: Callable[[], Result], stop: threading.Event, what: str) -> Result:
    """Repeat ``work`` while it raises TryLater. Raises Stopped, and at once any other error."""
    pauses = Pauses(stop)
    told = False
    while not stop.is_set():
        try:
            return work()
        except TryLater as error:
            if not told:
                log.warning("%s waits: %s", what, error)
                told = True
            pauses.rest(error)
    raise Stopped
