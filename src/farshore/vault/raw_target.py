"""What a disk is restored to: a block device, or a raw file that has its name only when it is whole and durable.

Until then the file is ``<name>.part``, so that a restore that was killed, or cut off from power, leaves nothing that
could pass for a disk, and what it was to replace is still there. What is left is written over by the next one.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
import struct
from collections.abc import Iterator
from pathlib import Path

from farshore.formats.batch import Buffer
from farshore.model.errors import NoSpace, Refused, TooSmall
from farshore.vault.folder_sync import sync_folder
from farshore.vault.holes import punch

_BLKGETSIZE64 = 0x80081272
_STEP = 4 << 20


class RawTarget:
    """An open file or device, as large as the disk at least. Safe to use from several threads."""

    def __init__(self, handle: int, *, sparse: bool) -> None:
        self._handle = handle
        self.sparse = sparse
        """Whether it is zero where nothing is written: a file is, a device holds what it held before."""

    def write(self, offset: int, *pieces: Buffer) -> int:
        """Write neighbouring pieces; answer their bytes."""
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
        """Zero ``[start, end)``, in a file by giving its space back; answer the bytes of zeroes that were written."""
        if end <= start or (self.sparse and punch(self._handle, start, end - start)):
            return 0
        zeroes = memoryview(bytes(min(_STEP, end - start)))
        return sum(self.write(place, zeroes[: end - place]) for place in range(start, end, _STEP))


@contextlib.contextmanager
def raw_target(path: Path, size: int, *, replace: bool) -> Iterator[RawTarget]:
    """A target of ``size`` bytes at ``path``; whole and durable when the block ends without an error.

    Raises TooSmall where a device is too small, Refused where a file exists and may not be replaced, NoSpace.
    """
    try:
        with _a_device(path, size) if is_block_device(path) else _a_file(path, size, replace=replace) as target:
            yield target
    except OSError as cause:
        raise NoSpace(f"{path} cannot be written: {cause.strerror}.", remedy="Free space and repeat.") from cause


def is_block_device(path: Path) -> bool:
    """Whether ``path`` is a block device."""
    return path.exists() and stat.S_ISBLK(path.stat().st_mode)


def device_bytes(handle: int) -> int:
    """Size of an open block device."""
    return int(struct.unpack("Q", fcntl.ioctl(handle, _BLKGETSIZE64, bytes(8)))[0])


@contextlib.contextmanager
def _a_device(path: Path, size: int) -> Iterator[RawTarget]:
    # O_EXCL refuses a device that is mounted or otherwise in use.
    handle = _open(path, os.O_RDWR | os.O_EXCL)
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


@contextlib.contextmanager
def _a_file(path: Path, size: int, *, replace: bool) -> Iterator[RawTarget]:
    _check_name(path, replace)
    final = path.resolve()  # where a link stands for a file elsewhere, that file is replaced
    part = final.with_name(final.name + ".part")
    handle = _new_part(part)
    try:
        os.ftruncate(handle, size)
        yield RawTarget(handle, sparse=True)
        os.fsync(handle)
        _check_name(path, replace)
        part.rename(final)
        sync_folder(final.parent)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    finally:
        os.close(handle)


def _check_name(path: Path, replace: bool) -> None:
    if not os.path.lexists(path) or (replace and path.is_file()):
        return
    if replace:
        raise Refused(f"{path} is neither a file nor a block device.", remedy="Choose another name.")
    raise Refused(f"{path} exists.", remedy="Choose another name, or say --replace.")


def _new_part(part: Path) -> int:
    """Create the file, in place of one that a killed restore left. One that is being written is locked."""
    if os.path.lexists(part):
        left = _open(part, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
        try:
            _hold(left, part)
            part.unlink()
        finally:
            os.close(left)
    handle = _open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL)
    try:
        _hold(handle, part)
    except BaseException:
        os.close(handle)
        raise
    return handle


def _open(path: Path, flags: int) -> int:
    try:
        return os.open(path, flags | os.O_CLOEXEC, 0o600)
    except OSError as cause:
        raise Refused(f"{path} cannot be opened: {cause.strerror}.", remedy="Unmount it, or give another.") from cause


def _hold(handle: int, part: Path) -> None:
    """Lock the file, which the kernel undoes when its holder is killed. Raises Refused where another has it."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        ours = os.path.samestat(os.fstat(handle), part.lstat())
    except (BlockingIOError, FileNotFoundError):
        ours = False
    if not ours:
        raise Refused(f"{part} is being written by another restore.", remedy="Wait for it, or choose another name.")
