"""Looks around at the start and now and then, and has what it found told with a heartbeat when it is new."""

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
"""What is not new is told again after so long: the server may have been set up anew."""


class Lookout:
    """``run`` in a thread of its own; ``untold`` and ``told`` are the heartbeat's."""

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
            except Exception:  # what one look fell over must not end all later ones
                log.exception("Looking around failed; it is tried again in %d seconds.", LOOK_SECONDS)
            pause = LOOK_SECONDS

    def look(self) -> None:
        """Look now."""
        self._found = self._look(self._surroundings())[:MOST_FINDINGS]

    def untold(self) -> Optional[List[Finding]]:
        """Return what the server is to be told; None: nothing new."""
        found = self._found
        old = self._clock.monotonic() - self._told_at >= TELL_SECONDS
        return None if found is None or (found == self._told and not old) else list(found)

    def told(self, findings: Optional[Sequence[Finding]]) -> None:
        """Note that the server has these findings."""
        if findings is not None:
            self._told, self._told_at = list(findings), self._clock.monotonic()
