"""Open a surviving disk, or a new one, so that nobody else can use it; write it in place without changing its size.

Reads go past the page cache if the file system allows that, so that comparing a disk does not fill the memory. Writes
go through it, because most are small: the kernel combines and starts them, ``flush`` completes them.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import struct
from pathlib import Path

from farshore.formats.batch import Buffer
from farshore.formats.disk_notice import HELD
from farshore.master_target.in_use import check_unused, keep_others_off
from farshore.model.errors import Damaged, NotFound, Refused, TooSmall
from farshore.model.identifiers import BLOCK
from farshore.sites.half_written import is_disk
from farshore.vault.reading.raw_target import RawTarget, device_bytes
from farshore.vault.reading.whole_file import explained, is_block_device

_BLKZEROOUT = 0x127F


class TargetDisk:
    """The raw file or block device ``path``, for a disk of ``size`` bytes. Safe to use from several threads.

    Raises Refused if it is in use or not a disk, TooSmall, NotFound, Forbidden. Opening it writes nothing. ``alone``:
    something else keeps others off it (for an image that QEMU serves)."""

    def __init__(self, path: Path, size: int, *, alone: bool = False) -> None:
        self.path, self.size = path, size
        self._direct: int | None = None
        self._device = is_block_device(path)
        self._file = _open(path, self._device)
        try:
            self.room = _bytes(self._file, path)
            if not alone:
                keep_others_off(self._file, path)
                check_unused(self._file, path)
            if self.room < size:
                raise TooSmall(
                    f"{path} has {self.room} bytes, the disk has {size}.",
                    remedy="Use a larger one." if self._device else f"Run `truncate --size {size} {path}`.",
                )
            self.identity = _identity(self._file)
            self._direct = _open_direct(path)
        except BaseException:
            self.close()
            raise
        # An image's holes are not punched: nbdfuse turns that into a trim, which guarantees no zeroes.
        self._target = RawTarget(self._file, sparse=not self._device and not alone)

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill ``buffer``, which is aligned to a page, with the disk's bytes from ``offset`` on."""
        whole = len(buffer) // BLOCK * BLOCK if self._direct is not None and offset % BLOCK == 0 else 0
        with explained(self.path):
            if whole:
                assert self._direct is not None
                self._read(self._direct, offset, buffer[:whole])
            self._read(self._file, offset + whole, buffer[whole:])

    def head(self, length: int) -> bytes:
        """Return the first ``length`` bytes, or fewer if the disk is shorter."""
        with explained(self.path):
            return os.pread(self._file, length, 0)

    def write(self, offset: int, *pieces: Buffer) -> int:
        """See farshore.vault.reading.changes.Target. Durable with the next flush."""
        self._check(offset, sum(len(piece) for piece in pieces))
        with explained(self.path):
            return self._target.write(offset, *pieces)

    def zero(self, start: int, end: int) -> int:
        """See farshore.vault.reading.changes.Target."""
        self._check(start, end - start)
        with explained(self.path):
            if self._device and end > start:
                try:
                    fcntl.ioctl(self._file, _BLKZEROOUT, struct.pack("QQ", start, end - start))
                except OSError:  # not by its own command, or not at this place
                    return self._target.zero(start, end)
                return 0
            return self._target.zero(start, end)

    def begin_writeback(self, offset: int, length: int) -> None:
        """Let the kernel begin to write a range and drop it from the page cache, so that memory does not fill."""
        self._target.begin_writeback(offset, length)

    def flush(self) -> None:
        """Make every write durable that had returned before."""
        with explained(self.path):
            os.fdatasync(self._file)

    def close(self) -> None:
        """Release the disk for others."""
        for file in (self._file, self._direct):
            if file is not None:
                os.close(file)

    def _check(self, offset: int, length: int) -> None:
        if offset < 0 or offset + length > self.size:
            raise Damaged(
                f"The vault has writes beyond the end of the disk for {self.path}.",
                remedy="Run `farshore vault verify`.",
            )

    def _read(self, file: int, offset: int, buffer: memoryview) -> None:
        while buffer:
            count = os.preadv(file, [buffer], offset)
            if count == 0:
                raise Damaged(f"{self.path} was shortened.", remedy="Keep other programs from writing to it.")
            offset, buffer = offset + count, buffer[count:]


class BehindNotice:
    """The same disk without its first ``HELD`` bytes, where the notice is: writes there are omitted."""

    def __init__(self, disk: TargetDisk) -> None:
        self._disk = disk

    def write(self, offset: int, *pieces: Buffer) -> int:
        """See farshore.vault.reading.changes.Target."""
        written = 0
        if offset >= HELD:
            return self._disk.write(offset, *pieces)
        for piece in pieces:
            hidden = min(len(piece), max(0, HELD - offset))
            if hidden < len(piece):
                written += self._disk.write(offset + hidden, memoryview(piece)[hidden:])
            offset += len(piece)
        return written

    def zero(self, start: int, end: int) -> int:
        """See farshore.vault.reading.changes.Target."""
        return self._disk.zero(max(start, HELD), end) if end > HELD else 0


def _open(path: Path, device: bool) -> int:
    _check_kind(path)
    try:
        # O_EXCL refuses a device that something has claimed; for a file it has no effect without O_CREAT.
        return os.open(path, os.O_RDWR | os.O_CLOEXEC | (os.O_EXCL if device else 0))
    except OSError as error:
        if error.errno == errno.EBUSY:
            raise Refused(
                f"{path} is in use: it or a part of it is mounted, or belongs to a volume, an array or swap.",
                remedy="Find the user with lsblk, end that use, then repeat.",
            ) from error
        if error.errno == errno.ENOENT:
            raise NotFound(
                f"There is no disk {path}.", remedy="Give a device that `lsblk` lists, or a file."
            ) from error
        with explained(path):
            raise


def _check_kind(path: Path) -> None:
    """Raise Refused for a path that is not a disk, without opening it: opening may have effects, as with
    /dev/watchdog."""
    with contextlib.suppress(OSError):
        if not is_disk(path.stat().st_mode):
            raise Refused(f"{path} is neither a file nor a block device.", remedy="Give the path of the disk itself.")


def _bytes(file: int, path: Path) -> int:
    found = os.fstat(file)
    if stat.S_ISBLK(found.st_mode):
        return device_bytes(file)
    if not stat.S_ISREG(found.st_mode):
        raise Refused(f"{path} was replaced while it was being opened.", remedy="Give the path of the disk itself.")
    return found.st_size


def _identity(file: int) -> str:
    found = os.fstat(file)
    if stat.S_ISBLK(found.st_mode):
        return f"device {os.major(found.st_rdev)}:{os.minor(found.st_rdev)}"
    return f"file {found.st_dev}:{found.st_ino}"


def _open_direct(path: Path) -> int | None:
    try:
        return os.open(path, os.O_RDONLY | os.O_DIRECT | os.O_CLOEXEC)
    except OSError as error:
        if error.errno != errno.EINVAL:  # the file system has no direct I/O
            raise
        return None
