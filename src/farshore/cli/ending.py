"""How a signal ends a command: SIGTERM and SIGHUP let it clean up, as Ctrl-C does.

By themselves these signals end a program at once, and its lease in the vault, its half-written file, its mount and its
folders stay.
"""

from __future__ import annotations

import signal
import threading
from types import FrameType


def tidily() -> None:
    """Let SIGTERM and SIGHUP end the program by way of its clean-up, with the exit status that shells give them.

    One that is ignored already (nohup) stays so. During the clean-up further ones change nothing."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, _end)


def wait() -> None:
    """Wait for a signal that ends the program. Further ones do not disturb its clean-up."""
    told = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: told.set())
    told.wait()


def _end(number: int, _frame: FrameType | None) -> None:
    for each in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, signal.SIG_IGN)
    raise SystemExit(128 + number)
