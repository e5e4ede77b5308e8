"""Run an errand in its own process: whatever happens to it, the master target continues, and the errand ends with the
master target.

It gets its task, with the keys of its machine, on standard input, which remains open while the process should live.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

from farshore.model.errors import TryLater, as_error
from farshore.model.home_task import HomeTask

MODULE = "farshore.master_target.on_behalf"
_END_SECONDS = 10.0


class ErrandProcess:
    """Create it, run it once."""

    def __init__(self, task: HomeTask, told: Callable[[float, str], None]) -> None:
        """``told`` receives the progress, 0 to 1, and a text."""
        self._task, self._told = task, told
        self._lock = threading.Lock()
        self._ended = False
        self._process: subprocess.Popen[bytes] | None = None

    def end(self) -> None:
        """Interrupt the errand, from any thread. ``run`` then raises TryLater."""
        with self._lock:
            self._ended = True
            if self._process is not None:
                self._process.kill()

    def run(self) -> tuple[int, int]:
        """Do the errand; return the bytes compared and the bytes written. Raises its error."""
        with self._lock:
            if self._ended:
                raise _broken_off()
            self._process = process = subprocess.Popen(
                [sys.executable, "-m", MODULE],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                cwd="/",
                start_new_session=True,
            )
        try:
            return self._hear(process)
        finally:
            _leave(process)

    def _hear(self, process: subprocess.Popen[bytes]) -> tuple[int, int]:
        assert process.stdin is not None
        assert process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(self._task.encode())
            process.stdin.flush()
        for line in process.stdout:
            said: dict[str, Any] = json.loads(line)
            if "error" in said:
                error = said["error"]
                raise as_error(str(error["code"]), str(error["message"]), str(error["remedy"]))
            if "outcome" in said:
                return int(said["outcome"]["compared"]), int(said["outcome"]["written"])
            self._told(float(said["done"]), str(said["detail"]))
        raise _broken_off()


def _broken_off() -> TryLater:
    return TryLater("The errand ended before it was done.", remedy="It continues with the next attempt.")


def _leave(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None
    assert process.stdout is not None
    with contextlib.suppress(BrokenPipeError):
        process.stdin.close()  # this makes the process end
    try:
        process.wait(_END_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    process.stdout.close()
