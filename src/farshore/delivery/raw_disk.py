"""Write and read a raw file or a block device of this host past the page cache.

Direct I/O keeps gigabytes of dirty pages out of a host that will run the machine, and reading back at the end reads the
disk itself. If a file system has no direct I/O, and at the unaligned end of a disk, the page cache is used and then
dropped.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import stat
import struct
from collections.abc import Iterator
from pathlib import Path

from farshore.export.raw_file import RawFileSource
from farshore.model.errors import Damaged, NoSpace, Refused, TooSmall, TryLater
from farshore.model.identifiers import BLOCK
from farshore.model.ports import Extent
from farshore.vault.reading.holes import punch
from farshore.vault.reading.raw_target import device_bytes
from farshore.vault.reading.whole_file import is_block_device
from farshore.vault.stores.folder_sync import sync_folder

_BLKZEROOUT = 0x127F
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_RESERVE = 64 << 20
"""Free bytes of a file system that are left to others."""


class RawDisk:
    """A disk of ``size`` bytes at ``path``: created as a sparse file if nothing is there, unless it is a block device.

    Raises TooSmall for a small device, Refused for a path that cannot be opened, NoSpace."""

    def __init__(self, path: Path, size: int) -> None:
        self._path, self._size = path, size
        with _explained(path):
            self.blank = not is_block_device(path)
            # O_EXCL refuses a device that is mounted or otherwise in use.
            how = os.O_CREAT | os.O_NOFOLLOW if self.blank else os.O_EXCL
            self._file = os.open(path, os.O_RDWR | os.O_CLOEXEC | how, 0o600)
            try:
                self._fit()
                self.identity = _identity(path, self._file)
                self._direct = _open_direct(path)
            except BaseException:
                os.close(self._file)
                raise

    def _fit(self) -> None:
        found = os.fstat(self._file)
        if not self.blank:
            room = device_bytes(self._file)
            if room < self._size:
                raise TooSmall(
                    f"{self._path} has {room} bytes, the disk has {self._size}.",
                    remedy="Use a device of at least that size.",
                )
        elif not stat.S_ISREG(found.st_mode):
            raise Refused(f"{self._path} is neither a file nor a block device.", remedy="Choose another name.")
        elif found.st_size != self._size:
            os.ftruncate(self._file, self._size)
            os.fsync(self._file)
            sync_folder(self._path.parent)

    @property
    def size(self) -> int:
        """The disk's size in bytes."""
        return self._size

    def check_room(self, needed: int) -> None:
        """See Destination."""
        if not self.blank:
            return
        free = shutil.disk_usage(self._path.parent).free
        if free < needed + _RESERVE:
            raise NoSpace(
                f"{self._path.parent} needs {needed >> 20} MiB of free space, but has {max(0, free) >> 20} MiB.",
                remedy="Free space there, and the delivery continues automatically. Or cancel its job.",
            )

    def write(self, offset: int, data: memoryview) -> None:
        """See Destination."""
        with _explained(self._path):
            whole = len(data) // BLOCK * BLOCK if self._direct is not None and offset % BLOCK == 0 else 0
            if whole:
                assert self._direct is not None
                _write(self._direct, offset, data[:whole])
            if whole < len(data):
                _write(self._file, offset + whole, data[whole:])
                if self._direct is None:
                    # Let the kernel begin to write, so that the flush has little left to do.
                    os.posix_fadvise(self._file, offset, len(data), os.POSIX_FADV_DONTNEED)

    def zero(self, offset: int, length: int) -> None:
        """See Destination."""
        with _explained(self._path):
            if self.blank:
                done = punch(self._file, offset, length)
            else:
                try:
                    fcntl.ioctl(self._file, _BLKZEROOUT, struct.pack("QQ", offset, length))
                    done = True
                except OSError:
                    done = False
            if not done:
                _write(self._file, offset, memoryview(bytes(length)))

    def flush(self) -> None:
        """See Destination."""
        with _explained(self._path):
            os.fdatasync(self._file)

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """See Destination."""
        with _explained(self._path):
            whole = len(buffer) // BLOCK * BLOCK if self._direct is not None and offset % BLOCK == 0 else 0
            if whole:
                assert self._direct is not None
                _read(self._direct, offset, buffer[:whole], self._path)
            if whole < len(buffer):
                os.posix_fadvise(self._file, offset + whole, len(buffer) - whole, os.POSIX_FADV_DONTNEED)
                _read(self._file, offset + whole, buffer[whole:], self._path)

    def extents(self, offset: int, length: int) -> Iterator[Extent]:
        """See Destination."""
        source = RawFileSource(self._path)
        try:
            yield from source.extents(offset, length)
        finally:
            source.close()

    def close(self) -> None:
        """See Destination."""
        os.close(self._file)
        if self._direct is not None:
            os.close(self._direct)


def _identity(path: Path, file: int) -> str:
    found = os.fstat(file)
    if stat.S_ISBLK(found.st_mode):
        return f"device {os.major(found.st_rdev)}:{os.minor(found.st_rdev)} at {path}"
    return f"file {found.st_dev}:{found.st_ino} at {path}"


def _open_direct(path: Path) -> int | None:
    try:
        return os.open(path, os.O_RDWR | os.O_DIRECT | os.O_CLOEXEC)
    except OSError as error:
        if error.errno != errno.EINVAL:  # the file system has no direct I/O
            raise
        return None


def _write(file: int, offset: int, data: memoryview) -> None:
    while data:
        count = os.pwrite(file, data, offset)
        offset, data = offset + count, data[count:]


def _read(file: int, offset: int, buffer: memoryview, path: Path) -> None:
    while buffer:
        count = os.preadv(file, [buffer], offset)
        if count == 0:
            raise Damaged(f"{path} was shortened.", remedy="Keep other programs from writing to it.")
        offset, buffer = offset + count, buffer[count:]


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise NoSpace(
                f"There is no space left for {path}.",
                remedy="Free space there, and the delivery continues automatically. Or cancel its job.",
            ) from error
        kind = Refused if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.EBUSY) else TryLater
        raise kind(f"{path} cannot be used: {error.strerror}.", remedy="Check the path, then repeat.") from error
