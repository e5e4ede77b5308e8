"""Run a program that is given as bytes, with limits of time and output, and leave nothing of it behind.

Its file is only in memory, so a full disk, a read-only one or one that cannot run programs does no harm. It has no
input, a minimal environment, and its own process group, which is killed at the end.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import time
from typing import IO, Mapping, Optional, Tuple

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_PIECE = 1 << 16
_LOOK_SECONDS = 0.2


def run_bounded(
    program: bytes, environment: Mapping[str, str], seconds: float, most_shown: int
) -> Tuple[Optional[int], bytes]:
    """Return its exit status (below 0: the signal that ended it; None: it took too long and was killed), and the last
    ``most_shown`` bytes of its output. Raises OSError for a program that cannot be run."""
    file = _in_memory(program)
    try:
        process = subprocess.Popen(
            [f"/proc/self/fd/{file}"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={"PATH": PATH, "LC_ALL": "C.UTF-8", **environment},
            cwd="/",
            pass_fds=(file,),
            start_new_session=True,
        )
    finally:
        os.close(file)
    assert process.stdout is not None
    try:
        with process.stdout as said:
            shown = _last_of(said, process, time.monotonic() + seconds, most_shown)
            return process.poll(), shown  # before its pipe is closed, which would end processes that still write
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _in_memory(program: bytes) -> int:
    """Return a descriptor that reads it: a file that is open for writing cannot be run."""
    made = os.memfd_create("guest-script")
    try:
        with open(made, "wb", closefd=False) as file:
            file.write(program)
        return os.open(f"/proc/self/fd/{made}", os.O_RDONLY)
    finally:
        os.close(made)


def _last_of(said: IO[bytes], process: subprocess.Popen[bytes], end: float, most: int) -> bytes:
    """Return the end of its output until it has ended, or until the monotonic time ``end``. Processes that it started
    in the background may hold the pipe for ever and are not waited for."""
    shown = b""
    with selectors.DefaultSelector() as selector:
        selector.register(said, selectors.EVENT_READ)
        while True:
            ended, left = process.poll() is not None, end - time.monotonic()
            if left <= 0:
                return shown
            if not selector.select(0 if ended else min(left, _LOOK_SECONDS)):
                if ended:
                    return shown
                continue
            piece = os.read(said.fileno(), _PIECE)
            if not piece:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(left)
                return shown
            shown = (shown + piece)[-most:]
