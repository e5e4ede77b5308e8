"""Work that is repeated in its own thread, and survives its failures.

No error ends the work: it is logged, reported as an alert, and the work is repeated. One of our errors may be temporary
(an unreachable store), so it becomes an alert after three consecutive failures; anything else is a defect and becomes
an alert at once.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from farshore.api_types.events import Severity
from farshore.model.errors import FarshoreError
from farshore.protection.watch import AlertCondition

log = logging.getLogger(__name__)

FAILING = "background-failing"
"""Kind of the alert."""
PATIENCE = 3


class Troubles:
    """The present failures of background work. ``tell`` raises an alert at once, because the watch itself may be what
    fails."""

    def __init__(self, tell: Callable[[AlertCondition], None]) -> None:
        self._tell = tell
        self._now: dict[str, AlertCondition] = {}

    def conditions(self) -> list[AlertCondition]:
        """Return conditions for the watch, which raises and clears alerts."""
        return list(self._now.values())

    def failed(self, name: str, why: str) -> None:
        """Note that work of that name failed."""
        what = f"{name} fails on this server: {why}"
        remedy = "This is retried automatically. Read the server's log, and report a defect."
        condition = AlertCondition(FAILING, f"server/{name}", Severity.ERROR, what[:1000], remedy)
        self._now[name] = condition
        try:
            self._tell(condition)
        except Exception:  # the log has it; the failed round must continue
            log.exception("The alert could not be raised: %s", what)

    def worked(self, name: str) -> None:
        """Note that work of that name succeeded."""
        self._now.pop(name, None)


class Periodic:
    """Calls ``work`` at once, then at a fixed interval in seconds, whatever it raises."""

    def __init__(self, name: str, every: float, work: Callable[[], None], troubles: Troubles) -> None:
        self._name = name
        self._every = every
        self._work = work
        self._troubles = troubles
        self._in_a_row = 0
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self, patience: float = 2.0) -> None:
        """End; a running round gets ``patience`` seconds."""
        self._stopped.set()
        self._thread.join(patience)

    def round(self) -> None:
        """Do the work once. Raises nothing."""
        try:
            self._work()
        except FarshoreError as error:
            log.warning("%s will be tried again: %s", self._name, error)
            self._in_a_row += 1
            if self._in_a_row >= PATIENCE:
                self._troubles.failed(self._name, str(error))
        except Exception as error:
            log.exception("%s failed; it will be tried again.", self._name)
            self._in_a_row += 1
            self._troubles.failed(self._name, f"{type(error).__name__}: {error}")
        else:
            self._in_a_row = 0
            self._troubles.worked(self._name)

    def _run(self) -> None:
        while True:
            self.round()
            if self._stopped.wait(self._every):
                return
