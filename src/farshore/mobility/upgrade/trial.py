"""Run a program on trial before it takes over: it is waited for as long as it works, however slow the machine is."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Callable, Optional, Sequence, Tuple

STILL_SECONDS = 60.0
"""A program that has not used the processor for this long hangs: on a busy machine it is slow, but uses some."""
LONGEST_SECONDS = 600.0
"""By then the configuration server withdraws its command, so nobody waits any longer."""
_LOOK_SECONDS = 1.0
_PROC = Path("/proc")
_SESSION, _USER, _CHILDREN_SYSTEM = 3, 11, 14
"""Fields of /proc/PID/stat after the name, see proc(5): session, and the first and last of four of processor time."""


class Hung(Exception):
    """The program did not end. The message says why the wait was given up."""


def tried(command: Sequence[str]) -> Tuple[int, bytes, bytes]:
    """Run a program to its end: return its status, and its standard output and error. Raises OSError if it cannot be
    run, Hung, after it and its children were killed."""
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    )
    said: Tuple[bytes, bytes] = (b"", b"")

    def ended() -> bool:
        nonlocal said
        try:
            said = process.communicate(timeout=_LOOK_SECONDS)
        except subprocess.TimeoutExpired:
            return False
        return True

    try:
        wait_for(ended, lambda: time_used(process.pid), time.monotonic)
    finally:
        if process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
    return process.returncode, *said


def wait_for(ended: Callable[[], bool], used: Callable[[], int], now: Callable[[], float]) -> None:
    """Return once ``ended``, which waits for a while each time, is true. ``used``: processor time, in any unit. Raises
    Hung."""
    began = worked = now()
    before = used()
    while not ended():
        here, spent = now(), used()
        if spent != before:
            before, worked = spent, here
        if here - worked >= STILL_SECONDS:
            raise Hung(f"it has used no processor time for {STILL_SECONDS:.0f} s")
        if here - began >= LONGEST_SECONDS:
            raise Hung(f"it has not ended within {LONGEST_SECONDS:.0f} s")


def time_used(session: int) -> int:
    """Return the processor time, in clock ticks, of the processes of a session and of their children that have
    ended."""
    return sum(filter(None, (_time_used(entry, session) for entry in _PROC.iterdir() if entry.name.isdigit())))


def _time_used(process: Path, session: int) -> Optional[int]:
    try:
        fields = (process / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None  # it has just ended
    return sum(map(int, fields[_USER : _CHILDREN_SYSTEM + 1])) if int(fields[_SESSION]) == session else None
