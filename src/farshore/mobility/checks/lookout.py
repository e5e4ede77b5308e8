"""Run the checks at the start and now and then; new findings are reported with a heartbeat."""

from __future__ import annotations

import logging
import threading
from typing import Callable, List, Optional, Sequence

from farshore.api_types.machines import MOST_FINDINGS, Finding
from farshore.mobility.checks.everything import Surroundings, look_around
from farshore.model.ports import Clock

log = logging.getLogger(__name__)

LOOK_SECONDS = 600.0
FIRST_SECONDS = 5.0
TELL_SECONDS = 600.0
"""Seconds after which known findings are reported again: the server may have been set up anew."""


class Lookout:
    """``run`` in its own thread; the heartbeat uses ``untold`` and ``told``."""

    def __init__(
        self,
        surroundings: Callable[[], Surroundings],
        clock: Clock,
        look: Callable[[Surroundings], List[Finding]] = look_around,
    ) -> None:
        self._surroundings = surroundings
        self._clock = clock
        self._look = look
        self._found: Optional[Sequence[Finding]] = None
        self._told: Optional[Sequence[Finding]] = None
        self._told_at = 0.0

    def run(self, stop: threading.Event) -> None:
        """Run the checks until ``stop``. The first round waits until the disks are known."""
        pause = FIRST_SECONDS
        while not stop.wait(pause):
            try:
                self.look()
            except Exception:  # an error in one round must not end all later ones
                log.exception("The checks failed; they are repeated in %d seconds.", LOOK_SECONDS)
            pause = LOOK_SECONDS

    def look(self) -> None:
        """Run the checks now."""
        self._found = self._look(self._surroundings())[:MOST_FINDINGS]

    def untold(self) -> Optional[List[Finding]]:
        """Return the findings to report; None: nothing new."""
        found = self._found
        old = self._clock.monotonic() - self._told_at >= TELL_SECONDS
        return None if found is None or (found == self._told and not old) else list(found)

    def told(self, findings: Optional[Sequence[Finding]]) -> None:
        """Record that the server has these findings."""
        if findings is not None:
            self._told, self._told_at = list(findings), self._clock.monotonic()
