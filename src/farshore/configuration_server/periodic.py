"""Work that is done again and again in a thread of its own, and outlives its failures."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from farshore.model.errors import FarshoreError

log = logging.getLogger(__name__)


class Periodic:
    """Calls ``work`` at once, then every so many seconds. An error of ours is logged, and the work done again."""

    def __init__(self, name: str, every: float, work: Callable[[], None]) -> None:
        self._name = name
        self._every = every
        self._work = work
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self, patience: float = 2.0) -> None:
        """End; a round that is under way gets ``patience`` seconds."""
        self._stopped.set()
        self._thread.join(patience)

    def _run(self) -> None:
        while True:
            try:
                self._work()
            except FarshoreError as error:
                log.warning("%s will be tried again: %s", self._name, error)
            if self._stopped.wait(self._every):
                return
