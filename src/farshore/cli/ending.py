"""Signal handling of commands: SIGTERM and SIGHUP clean up as Ctrl-C does.

Python's default is to die at once, which would leave a lease in the vault, a partial file, a mount or folders behind.
"""

from __future__ import annotations

import signal
import threading
from types import FrameType


def tidily() -> None:
    """Turn SIGTERM and SIGHUP into an exit that cleans up, with the exit status that shells use for them.

    An ignored signal (nohup) stays ignored. Further signals during the clean-up have no effect."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, _end)


def wait() -> None:
    """Wait for a signal that ends the program. Further signals do not disturb the clean-up."""
    told = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: told.set())
    told.wait()


def _end(number: int, _frame: FrameType | None) -> None:
    for each in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, signal.SIG_IGN)
    raise SystemExit(128 + number)
