"""What a disk is restored to: a block device, or a raw file that has its name only when it is whole and durable."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import struct
from collections.abc import Iterator
from pathlib import Path

from farshore.formats.batch import Buffer
from farshore.model.errors import Refused, TooSmall
from farshore.vault.reading.holes import punch
from farshore.vault.reading.whole_file import explained, is_block_device, whole_file

_BLKGETSIZE64 = 0x80081272
_STEP = 4 << 20
_OTHER = "Give another device."
_REMEDIES = {
    errno.EBUSY: "Unmount it and end what uses it, or give another.",
    errno.EROFS: "It is read-only: make it writable (`blockdev --setrw`), or give another.",
    errno.EACCES: "Run this as root.",
    errno.EPERM: "Run this as root.",
}


class RawTarget:
    """An open file or device, as large as the disk at least. Safe to use from several threads."""

    def __init__(self, handle: int, *, sparse: bool) -> None:
        self._handle = handle
        self.sparse = sparse
        """Whether it is zero where nothing is written: a file is, a device holds what it held before."""

    def write(self, offset: int, *pieces: Buffer) -> int:
        """Write neighbouring pieces; return their bytes."""
        size = sum(len(piece) for piece in pieces)
        done = os.pwritev(self._handle, pieces, offset) if len(pieces) > 1 else 0
        start = 0
        for piece in pieces if done < size else ():
            rest = memoryview(piece)[max(0, done - start) :]
            start += len(piece)
            while rest:
                count = os.pwrite(self._handle, rest, offset + start - len(rest))
                rest = rest[count:]
        return size

    def begin_writeback(self, start: int, length: int) -> None:
        """Have the kernel begin to write a range to the disk, so that the sync at the end finds little left to do."""
        with contextlib.suppress(OSError):  # a hint: the sync says whether the data is there
            os.posix_fadvise(self._handle, start, length, os.POSIX_FADV_DONTNEED)

    def zero(self, start: int, end: int) -> int:
        """Zero ``[start, end)``, in a file by giving its space back; return the bytes of zeroes that were
        written."""
        if end <= start or (self.sparse and punch(self._handle, start, end - start)):
            return 0
        zeroes = memoryview(bytes(min(_STEP, end - start)))
        return sum(self.write(place, zeroes[: end - place]) for place in range(start, end, _STEP))


@contextlib.contextmanager
def raw_target(path: Path, size: int, *, replace: bool) -> Iterator[RawTarget]:
    """Yield a target of ``size`` bytes at ``path``; whole and durable when the block ends without an error.

    Raises TooSmall where a device is too small, Refused where a file exists and may not be replaced, and as
    ``explained``.
    """
    if is_block_device(path):
        with explained(path), _a_device(path, size) as target:
            yield target
        return
    with whole_file(path, replace=replace) as (handle, _):
        os.ftruncate(handle, size)
        yield RawTarget(handle, sparse=True)


def device_bytes(handle: int) -> int:
    """Size of an open block device."""
    return int(struct.unpack("Q", fcntl.ioctl(handle, _BLKGETSIZE64, bytes(8)))[0])


@contextlib.contextmanager
def _a_device(path: Path, size: int) -> Iterator[RawTarget]:
    # O_EXCL refuses a device that is mounted or otherwise in use.
    try:
        handle = os.open(path, os.O_RDWR | os.O_EXCL | os.O_CLOEXEC)
    except OSError as cause:
        remedy = _REMEDIES.get(cause.errno or 0, _OTHER)
        raise Refused(f"{path} cannot be opened: {cause.strerror}.", remedy=remedy) from cause
    try:
        room = device_bytes(handle)
        if room < size:
            raise TooSmall(
                f"{path} has {room} bytes, the disk has {size}.", remedy="Use a device of at least that size."
            )
        yield RawTarget(handle, sparse=False)
        os.fsync(handle)
    finally:
        os.close(handle)
