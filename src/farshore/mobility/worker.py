"""Threads whose failure must be business: one ends what it is part of, or it begins again."""

from __future__ import annotations

import logging
import threading
from typing import Callable, Optional

from farshore.backoff import Backoff
from farshore.mobility.retrying import Stopped
from farshore.model.errors import Damaged, FarshoreError

log = logging.getLogger(__name__)

FIRST_PAUSE, LONGEST_PAUSE = 2.0, 60.0
"""Between two starts of a thread that fails again and again, seconds."""


class Worker:
    """Runs ``work(stop)`` in a thread; when it ends, normally or by an error of ours, ``changed`` is set."""

    def __init__(self, name: str, work: Callable[[threading.Event], object], changed: threading.Event) -> None:
        self._work = work
        self._changed = changed
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self.error: Optional[FarshoreError] = None
        self.finished = False
        """It ended without an error and without having been stopped."""
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether it still works."""
        return self._thread.is_alive()

    def stop(self) -> None:
        """Ask it to end."""
        self._stop.set()

    def join(self) -> None:
        """Tell it to end and wait until it has."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            self._work(self._stop)
            self.finished = not self._stop.is_set()
        except Stopped:
            self.finished = False
        except FarshoreError as error:
            self.error = error
        except Exception as error:  # a defect of ours must end the epoch, never stall it
            log.exception("The %s failed.", self._thread.name)
            self.error = Damaged(
                f"The {self._thread.name} failed ({type(error).__name__}: {error}).",
                remedy="The machine resyncs automatically. Read the agent's log: journalctl -u farshore-mobility",
            )
        finally:
            self._changed.set()


def keep_up(
    name: str, work: Callable[[threading.Event], object], stop: threading.Event, failed: Callable[[], object]
) -> threading.Thread:
    """Run ``work(stop)`` in a thread until ``stop`` is set. If it fails, the error is logged, ``failed`` is called, and
    it begins again after a pause: what it watches over must not go unwatched, and does not end the service."""

    def run() -> None:
        backoff = Backoff(FIRST_PAUSE, LONGEST_PAUSE)
        while not stop.is_set():
            try:
                work(stop)
            except Exception:
                log.exception("The %s failed; it begins again.", name)
                failed()
            stop.wait(backoff.pause())

    thread = threading.Thread(target=run, name=name, daemon=True)
    thread.start()
    return thread
