"""Keeps the interpreter's own pauses short: all of the server waits in them, and so a command on its way to an agent.

Two of them grow with the server. A full collection of garbage looks at every object that there is, 0.2 million after
the start and 250 more for each agent that is connected: 0.1 to 0.5 s, and CPython begins one whenever there are a
quarter more objects than at the last. And a thread that computes (the watch over a thousand machines) gives up the
interpreter only when it was asked for that long enough, each time that another one comes back from waiting.
"""

from __future__ import annotations

import gc
import sys

_YOUNG, _MIDDLE, _OLD = 20_000, 20, 50
"""Objects, then collections of the younger generation, between two collections of each: a full one comes once in tens
of thousands of requests. What it has not found until then is a few MiB."""
_TURN_SECONDS = 0.0005


def keep_short() -> None:
    """Call it once the server is made, before it serves: what there is by then is never looked at again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG, _MIDDLE, _OLD)
    sys.setswitchinterval(_TURN_SECONDS)
