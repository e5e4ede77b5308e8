"""Memory whose pages are surely not neighbours: the same page over and over.

How the pages of an ordinary buffer lie is chance, and one that lies in one piece shows nothing. Stands alone: a guest
runs it too.
"""

from __future__ import annotations

import ctypes
import mmap
import os

_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.mmap.restype = ctypes.c_void_p
_LIBC.mmap.argtypes = (
    ctypes.c_void_p,
    ctypes.c_size_t,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_long,
)
_MAP_SHARED_FIXED = 0x11


def one_page(pages: int) -> mmap.mmap:
    """A mapping of so many pages, all of which are one page of memory, which holds random bytes."""
    made = mmap.mmap(-1, pages * mmap.PAGESIZE)
    start = ctypes.addressof(ctypes.c_char.from_buffer(made))
    descriptor = os.memfd_create("page")
    try:
        os.write(descriptor, os.urandom(mmap.PAGESIZE))
        for number in range(pages):
            at = start + number * mmap.PAGESIZE
            protection = mmap.PROT_READ | mmap.PROT_WRITE
            if _LIBC.mmap(at, mmap.PAGESIZE, protection, _MAP_SHARED_FIXED, descriptor, 0) != at:
                raise OSError(ctypes.get_errno(), "mmap")
    finally:
        os.close(descriptor)
    return made
