"""Holes in files: ranges that read as zero and take no space."""

from __future__ import annotations

import ctypes
import errno
import os

_FALLOC_FL_KEEP_SIZE = 1
_FALLOC_FL_PUNCH_HOLE = 2
_WITHOUT_HOLES = (errno.EOPNOTSUPP, errno.ENOSYS)

_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)


def punch(file: int, offset: int, length: int) -> bool:
    """Zero a range of an open file and give its space back; False, and nothing changed, where the file system
    cannot.

    Raises OSError."""
    if length <= 0:
        return True
    if _libc.fallocate(file, _FALLOC_FL_PUNCH_HOLE | _FALLOC_FL_KEEP_SIZE, offset, length) == 0:
        return True
    number = ctypes.get_errno()
    if number in _WITHOUT_HOLES:
        return False
    raise OSError(number, os.strerror(number))
