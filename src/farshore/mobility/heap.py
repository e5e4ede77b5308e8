"""Limit what glibc's allocator keeps for later, because the agent has a memory limit.

By default it makes an arena for each of the agent's threads, and once batches of some MiB have been freed it keeps
twice the largest of them in each. Two arenas, and buffers of 1 MiB and more returned at once, cost some page faults and
keep the peak at the size of the data. Other C libraries are unchanged.
"""

from __future__ import annotations

import ctypes

_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_M_ARENA_MAX = -8
_LARGE = 1 << 20
_ARENAS = 2


def bound_heap() -> bool:
    """Return whether the allocator accepted the settings. Call it before there are threads."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    settings = ((_M_ARENA_MAX, _ARENAS), (_M_MMAP_THRESHOLD, _LARGE), (_M_TRIM_THRESHOLD, _LARGE))
    return sum(bool(mallopt(name, value)) for name, value in settings) == len(settings)
