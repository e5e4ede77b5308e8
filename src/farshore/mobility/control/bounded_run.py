"""Runs a program that came as bytes, within bounds of time and output, and leaves nothing of it behind.

Its file lies in memory alone, so a full disk, one that is read-only and one that runs no programs do no harm. It has
no input, an environment that says little, and a process group of its own, which is killed at the end.
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
    """Its exit status (below 0: the signal that ended it; None: it took too long and was killed), and the last
    ``most_shown`` bytes of what it said. Raises OSError for what cannot be run."""
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
            return process.poll(), shown  # before its pipe is closed, which would end what still writes
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _in_memory(program: bytes) -> int:
    """A descriptor that reads it: a file that is open for writing cannot be run."""
    made = os.memfd_create("guest-script")
    try:
        with open(made, "wb", closefd=False) as file:
            file.write(program)
        return os.open(f"/proc/self/fd/{made}", os.O_RDONLY)
    finally:
        os.close(made)


def _last_of(said: IO[bytes], process: subprocess.Popen[bytes], end: float, most: int) -> bytes:
    """The last of what it says until it has ended, or until the monotonic time ``end``. What it has started in the
    background may hold the pipe for ever and is not waited for."""
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
