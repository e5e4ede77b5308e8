"""Freeze the machine's file systems for a moment, so that a point is clean on disk.

The freeze and the thaw are done by thaw_guard.py, a separate process that thaws when its time is up or when the agent
dies: a machine must never remain frozen. Nothing is written or logged here between the two.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import IO, FrozenSet, List, Mapping, Optional, Sequence, Type

from farshore.model.errors import TryLater

GUARD = Path(__file__).with_name("thaw_guard.py")
FREEZE_SECONDS = 10.0
_START_SECONDS = 30.0
_LIBC = ctypes.CDLL(None, use_errno=True)


def order_of_freezing(mounted_on: Mapping[str, FrozenSet[str]], disks: FrozenSet[str]) -> List[str]:
    """Return the mount points to freeze, given (in mount order) the disks ("major:minor") below each: those mounted
    last first.

    A file system in a file of another one was mounted after it, so it is frozen before it."""
    return [point for point, below in reversed(list(mounted_on.items())) if below & disks]


def write_out(mount_points: Sequence[str]) -> None:
    """Let these file systems write their cached data. Not all of the machine's: one on a dead server would hang."""
    for point in mount_points:
        with contextlib.suppress(OSError):  # the freeze itself reports it
            descriptor = os.open(point, os.O_RDONLY | os.O_DIRECTORY)
            try:
                _LIBC.syncfs(descriptor)
            finally:
                os.close(descriptor)


class Freeze:
    """``with Freeze(points): …``: frozen inside. Raises TryLater if a file system cannot be frozen.

    ``thaw`` raises TryLater if the guard had to thaw before: then the work inside has no meaning."""

    def __init__(self, mount_points: Sequence[str], seconds: float = FREEZE_SECONDS) -> None:
        self._points = list(mount_points)
        self._seconds = seconds
        self._guard: Optional[subprocess.Popen[bytes]] = None
        self._until = 0.0

    def __enter__(self) -> Freeze:
        command = [sys.executable, "-I", "-S", str(GUARD), str(self._seconds), *self._points]
        self._guard = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
        try:
            self._expect("ready", _START_SECONDS)
            write_out(self._points)  # so that the freeze itself has little to write and is short
            self._until = time.monotonic() + self._seconds
            self._tell("freeze")
            self._expect("frozen", self._seconds)
        except BaseException:
            self._end()
            raise
        return self

    def holds(self) -> bool:
        """Return whether everything is certainly frozen: the guard's time begins later than ours."""
        return time.monotonic() < self._until

    def thaw(self) -> None:
        """Thaw now. Raises TryLater if it was thawed before."""
        self._tell("thaw")
        try:
            self._expect("thawed", self._seconds)
        finally:
            self._end()

    def __exit__(
        self, kind: Optional[Type[BaseException]], value: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        self._end()

    def _tell(self, word: str) -> None:
        try:
            self._pipe(0).write(word.encode() + b"\n")
        except BrokenPipeError:
            return  # it has ended; its last message says why

    def _expect(self, word: str, seconds: float) -> None:
        pipe = self._pipe(1)
        poller = select.poll()  # select() takes no descriptor beyond 1,023
        poller.register(pipe, select.POLLIN)
        ready = poller.poll(seconds * 1000)
        answer = os.read(pipe.fileno(), 4096).decode("utf-8", "replace").strip() if ready else "no answer"
        if answer != word:
            raise TryLater(
                f"The file systems could not be frozen ({answer or 'the guard ended'}).",
                remedy="Repeat the request when the machine is less busy, or request a crash-consistent point.",
            )

    def _pipe(self, number: int) -> IO[bytes]:
        assert self._guard is not None
        pipe = self._guard.stdin if number == 0 else self._guard.stdout
        assert pipe is not None
        return pipe

    def _end(self) -> None:
        """Close the guard's input, which makes it thaw if it has not."""
        guard, self._guard = self._guard, None
        if guard is None:
            return
        for pipe in (guard.stdin, guard.stdout):
            if pipe is not None:
                pipe.close()
        guard.wait(_START_SECONDS)
