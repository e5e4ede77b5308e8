"""Wait for tasks of a VMware server: long operations return a task, which is polled.

Only a task's state, error and result are requested. Some servers return other fields in types that the SDK does not
accept, and then it refuses the whole answer.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from pyVmomi import vim

from farshore.model.errors import TryLater
from farshore.vsphere.faults import of_server, translated
from farshore.vsphere.session import Session

_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 2.0
"""Seconds between two polls: most tasks end at once, copies take minutes."""


def finished(session: Session, task: Any, seconds: float, sleep: Callable[[float], None] = time.sleep) -> Any:
    """Return a task's result once it has ended. Raises the task's error as one of ours, or TryLater if it has not ended
    after ``seconds``; then it continues at the server."""
    end, pause = time.monotonic() + seconds, _FIRST_PAUSE
    while True:
        with translated(session.host):
            state = str(task.info.state)
            if state == vim.TaskInfo.State.success:
                return task.info.result
            error = task.info.error if state == vim.TaskInfo.State.error else None
        if error is not None:
            raise of_server(session.host, error) from error
        if time.monotonic() > end:
            raise TryLater(
                f"A task at {session.host} has not ended after {seconds:.0f} s.",
                remedy="This is retried automatically. Check the server's recent tasks.",
            )
        sleep(pause)
        pause = min(_LONGEST_PAUSE, 2 * pause)
