"""Waiting for events: how long it takes is nobody's business, that it comes about is."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

PATIENCE = 300.0
"""Seconds. Far more than anything takes on a busy machine: only what never comes runs into it."""
T = TypeVar("T")


def until(true: Callable[[], T], what: str = "", *, pause: float = 0.05, seconds: float = PATIENCE) -> T:
    """Return the first true answer of ``true``. Raises AssertionError with ``what`` after ``seconds``."""
    give_up = time.monotonic() + seconds
    while not (answer := true()):
        assert time.monotonic() < give_up, f"{what or true}: not within {seconds:.0f} s"
        time.sleep(pause)
    return answer
