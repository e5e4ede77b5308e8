"""Receive the machine's open commands over a stream that the server keeps open: a line for each change of the list.

The thread sleeps in the kernel while there are no commands. Each line is the whole list, so no single line is
essential: a stream that was interrupted, by a proxy's timeout or a server's restart, is opened again and begins with
the present list.
"""

from __future__ import annotations

import logging
import random
import threading
from typing import Callable

from farshore.client.machine_self import MachineSelf
from farshore.mobility.commands.handling import Handling
from farshore.model.errors import FarshoreError, TryLater
from farshore.model.ports import Clock

log = logging.getLogger(__name__)

_HELD_SECONDS = 5.0
"""A stream that ends after this time met a proxy's timeout, or a server that restarts: open it again at once."""
_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 10.0
_TELL_AFTER = 3


class Fetching:
    """``run`` in its own thread. ``epoch``: the one that this run of the agent holds now; 0: none. ``hardware``: the id
    of the machine's hardware, which distinguishes a recovered machine from its source."""

    def __init__(
        self,
        server: MachineSelf,
        handling: Handling,
        run: str,
        epoch: Callable[[], int],
        clock: Clock,
        hardware: str = "",
    ) -> None:
        self._server = server
        self._handling = handling
        self._run = run
        self._epoch = epoch
        self._clock = clock
        self._hardware = hardware
        self._failed = 0

    def run(self, stop: threading.Event) -> None:
        """Follow the server's commands until ``stop``. The stream open at that time is abandoned."""
        while not stop.is_set():
            stop.wait(self.fetch())

    def fetch(self) -> float:
        """Follow one stream to its end; return the seconds to wait before the next one."""
        began = self._clock.monotonic()
        wanted = 0.0
        try:
            with self._server.commands(self._run, self._epoch(), self._hardware) as lists:
                for commands in lists:
                    self._heard()
                    self._handling.offered(commands)
        except FarshoreError as error:
            wanted = error.after or 0.0 if isinstance(error, TryLater) else 0.0
            self._tell(error)
        if self._clock.monotonic() - began >= _HELD_SECONDS and not wanted:
            return 0.0
        self._failed += 1
        pause = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2.0 ** min(self._failed - 1, 10))
        # Randomised: all agents of a restarted server reconnect, and not at the same moment.
        return max(wanted, pause) * random.uniform(0.5, 1.5)

    def _heard(self) -> None:
        if self._failed >= _TELL_AFTER:
            log.info("The stream of commands works again.")
        self._failed = 0

    def _tell(self, error: FarshoreError) -> None:
        if self._failed + 1 == _TELL_AFTER:
            log.warning("This machine receives no commands: %s", error)
        else:
            log.debug("The stream of commands ended: %s", error)
