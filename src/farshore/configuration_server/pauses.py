"""Keep the interpreter's own pauses short: the whole server waits in them, and so does a command on its way to an
agent.

Two kinds grow with the server. A full garbage collection visits every object, 0.2 million after the start and 250 more
for each connected agent: 0.1 to 0.5 s, and CPython begins one whenever there are a quarter more objects than at the
last. And a thread that computes (the watch over a thousand machines) releases the interpreter only after a request of a
certain age, each time that another thread returns from waiting.
"""

from __future__ import annotations

import gc
import sys

_YOUNG, _MIDDLE, _OLD = 20_000, 20, 50
"""Objects, then collections of the younger generation, between two collections of each: a full one comes once in tens
of thousands of requests. Until then at most a few MiB of garbage remain."""
_TURN_SECONDS = 0.0005


def keep_short() -> None:
    """Call it once the server is built, before it serves: objects that exist by then are never visited again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG, _MIDDLE, _OLD)
    sys.setswitchinterval(_TURN_SECONDS)
