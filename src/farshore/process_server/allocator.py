"""Tells glibc's allocator to keep what is freed: batches come and go by the thousand, in pieces of 64 KiB.

Given back to the kernel and asked for again, each piece costs page faults and cleared pages: a fifth of the CPU
under load, measured. What stays is bounded by the requests that are worked on at once. Other C libraries are left
as they are.
"""

from __future__ import annotations

import ctypes

_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_KEEP = 256 << 20
_LARGEST_KEPT = 32 << 20
"""glibc takes no more."""


def keep_freed_memory() -> bool:
    """Return whether the allocator took both settings."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(_M_TRIM_THRESHOLD, _KEEP) and mallopt(_M_MMAP_THRESHOLD, _LARGEST_KEPT))
