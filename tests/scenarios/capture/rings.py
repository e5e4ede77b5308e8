"""A small io_uring, without liburing: one request at a time, waited for.

Stands alone: a guest runs it too.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import struct
from types import TracebackType

_LIBC = ctypes.CDLL(None, use_errno=True)
_SETUP, _ENTER, _REGISTER = 425, 426, 427
_IOPOLL, _SQE128, _CQE32 = 1, 1 << 10, 1 << 11
_GETEVENTS = 1
_REGISTER_BUFFERS = 0
_WRITE_FIXED, _WRITE, _URING_CMD = 5, 23, 46
_ENTRIES = 4


class Ring:
    """``polled``: the kernel looks for completions instead of waiting for an interrupt. ``wide``: for commands."""

    def __init__(self, *, polled: bool = False, wide: bool = False) -> None:
        flags = polled * _IOPOLL | wide * (_SQE128 | _CQE32)
        parameters = bytearray(struct.pack("<3I", 0, 0, flags).ljust(120, b"\0"))
        self._descriptor = _LIBC.syscall(_SETUP, _ENTRIES, (ctypes.c_char * 120).from_buffer(parameters))
        _check(self._descriptor, "io_uring_setup")
        entries, completions = struct.unpack_from("<2I", parameters)
        self._sq, self._cq = struct.unpack_from("<7I", parameters, 40), struct.unpack_from("<6I", parameters, 80)
        self._size, self._told = (128, 32) if wide else (64, 16)
        self._submissions = mmap.mmap(self._descriptor, self._sq[6] + 4 * entries, offset=0)
        self._completions = mmap.mmap(self._descriptor, self._cq[5] + self._told * completions, offset=0x8000000)
        self._entries = mmap.mmap(self._descriptor, self._size * entries, offset=0x10000000)

    def __enter__(self) -> Ring:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for mapped in (self._submissions, self._completions, self._entries):
            mapped.close()
        os.close(self._descriptor)

    def register(self, memory: mmap.mmap) -> None:
        """Have the kernel hold this memory for ``write_fixed``."""
        vector = struct.pack("<QQ", ctypes.addressof(ctypes.c_char.from_buffer(memory)), len(memory))
        _check(_LIBC.syscall(_REGISTER, self._descriptor, _REGISTER_BUFFERS, vector, 1), "io_uring_register")

    def write(self, descriptor: int, memory: mmap.mmap, offset: int, *, fixed: bool = False) -> None:
        """All of ``memory``. Raises OSError."""
        at = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        code = _WRITE_FIXED if fixed else _WRITE
        done = self._run(struct.pack("<BBHiQQIIQHHi", code, 0, 0, descriptor, offset, at, len(memory), 0, 1, 0, 0, 0))
        if done != len(memory):
            raise OSError(f"{done} of {len(memory)} bytes were written")

    def command(self, descriptor: int, operation: int, command: bytes) -> None:
        """A driver's own command. Raises OSError."""
        head = struct.pack("<BBHiQQIIQHHi", _URING_CMD, 0, 0, descriptor, operation, 0, 0, 0, 1, 0, 0, 0)
        done = self._run(head + command)
        if done:
            raise OSError(f"The driver answered {done}.")

    def _run(self, entry: bytes) -> int:
        """What the kernel answered."""
        tail, mask, array = self._sq[1], self._sq[2], self._sq[6]
        number = struct.unpack_from("<I", self._submissions, tail)[0]
        index = number & struct.unpack_from("<I", self._submissions, mask)[0]
        self._entries[index * self._size : (index + 1) * self._size] = entry.ljust(self._size, b"\0")
        struct.pack_into("<I", self._submissions, array + 4 * index, index)
        struct.pack_into("<I", self._submissions, tail, number + 1)
        _check(_LIBC.syscall(_ENTER, self._descriptor, 1, 1, _GETEVENTS, None, 0), "io_uring_enter")
        head = struct.unpack_from("<I", self._completions, self._cq[0])[0]
        place = head & struct.unpack_from("<I", self._completions, self._cq[2])[0]
        answer: int = struct.unpack_from("<i", self._completions, self._cq[5] + place * self._told + 8)[0]
        struct.pack_into("<I", self._completions, self._cq[0], head + 1)
        if answer < 0:
            raise OSError(-answer, os.strerror(-answer))
        return answer


def _check(answer: int, what: str) -> None:
    if answer < 0:
        raise OSError(ctypes.get_errno(), what)
