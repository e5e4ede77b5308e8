"""Freezes file systems, and thaws them whatever happens to the agent. A program of its own; run by freezing.py.

usage: thaw_guard.py SECONDS MOUNT_POINT…

Reads lines on standard input: ``freeze``, ``thaw``. Answers each with one line: ``frozen``, ``thawed``, or
``failed MOUNT_POINT: REASON`` with nothing left frozen. If ``thaw`` does not come within SECONDS, or the input ends
because the agent died, it thaws by itself, and then answers ``late``. It touches no file once it has frozen
something: all it needs is in memory and open by then. Standard library only, and little of it.
"""

from __future__ import annotations

import errno
import fcntl
import os
import select
import sys
from typing import List, Tuple

FIFREEZE = 0xC0045877
FITHAW = 0xC0045878


def main(arguments: List[str]) -> int:
    """Serve one freeze."""
    seconds = float(arguments[0])
    try:
        opened = [(path, os.open(path, os.O_RDONLY | os.O_DIRECTORY)) for path in arguments[1:]]
    except OSError as error:
        _say(f"failed {error.filename}: {error.strerror}")
        return 1
    frozen: List[int] = []
    _say("ready")
    try:
        if _hear(None) != "freeze":
            return 0
        problem = _freeze(opened, frozen)
        if problem:
            _thaw(frozen)
            _say("failed " + problem)
            return 1
        _say("frozen")
        in_time = _hear(seconds) == "thaw"
        _thaw(frozen)
        _say("thawed" if in_time else "late")
    finally:
        _thaw(frozen)
    return 0


def _freeze(opened: List[Tuple[str, int]], frozen: List[int]) -> str:
    for path, descriptor in opened:
        try:
            fcntl.ioctl(descriptor, FIFREEZE, 0)
        except OSError as error:
            if error.errno == errno.EOPNOTSUPP:  # vfat and the like: nothing to freeze; it was synced before
                continue
            return f"{path}: {error.strerror}"
        frozen.append(descriptor)
    return ""


def _thaw(frozen: List[int]) -> None:
    while frozen:
        try:
            fcntl.ioctl(frozen.pop(), FITHAW, 0)
        except OSError as error:
            if error.errno != errno.EINVAL:  # somebody has thawed it already
                os.write(2, f"thawing failed: {error.strerror}\n".encode())


def _hear(seconds: object) -> str:
    ready, _, _ = select.select([0], [], [], seconds)  # type: ignore[arg-type]
    return os.read(0, 64).decode("ascii", "replace").strip() if ready else ""


def _say(text: str) -> None:
    try:
        os.write(1, text.encode("utf-8", "surrogateescape") + b"\n")
    except BrokenPipeError:
        return


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
