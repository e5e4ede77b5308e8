"""Open the streams in the spool at the start, while the server already works.

An unreachable store must not prevent the server from reporting: it would be given up, and its machines moved. A problem
of one machine (its key in the vault is damaged) must not delay the others: it is reported, and retried. Meanwhile a
request for a stream opens that stream as usual.
"""

from __future__ import annotations

import logging
import threading

from farshore.backoff import Backoff
from farshore.model.errors import FarshoreError, TryLater
from farshore.process_server.streams.registry import Key, Streams

_log = logging.getLogger(__name__)

_FIRST_PAUSE = 1.0
_LONGEST_PAUSE = 15.0


class Resuming:
    """Started and stopped once."""

    def __init__(self, streams: Streams) -> None:
        self._streams = streams
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="resuming", daemon=True)

    def start(self) -> None:
        """Begin; it ends once every stream is open."""
        self._thread.start()

    def stop(self) -> None:
        """Leave the rest to the next start."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        backoff = Backoff(_FIRST_PAUSE, _LONGEST_PAUSE)
        told: dict[Key, str] = {}
        while not self._stopping.is_set():
            failed = self._streams.resume(self._stopping)
            _tell({key: error for key, error in failed.items() if told.get(key) != str(error)})
            told = {key: str(error) for key, error in failed.items()}
            if not failed:
                return
            self._stopping.wait(backoff.pause())


def _tell(failed: dict[Key, FarshoreError]) -> None:
    for (machine, epoch), error in failed.items():
        level = logging.WARNING if isinstance(error, TryLater) else logging.ERROR
        _log.log(level, "Machine %s: the spool's frames of epoch %d wait: %s", machine, epoch, error)
