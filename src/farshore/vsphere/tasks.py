"""Tasks of a VMware server: what it does takes time, and its answer to the call is a task to look at.

A task is asked for its state, error and result alone: other fields of it are typed more narrowly than some servers
answer, and the SDK refuses the whole then.
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
"""Seconds between two looks: most tasks end at once, copies take minutes."""


def finished(session: Session, task: Any, seconds: float, sleep: Callable[[float], None] = time.sleep) -> Any:
    """Return a task's result once it has ended. Raises what it ended with as our error, TryLater where it has not ended
    after so many seconds: it goes on there."""
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
                f"{session.host} has not ended a task after {seconds:.0f} s.",
                remedy="It is retried by itself. Check the server's recent tasks.",
            )
        sleep(pause)
        pause = min(_LONGEST_PAUSE, 2 * pause)
