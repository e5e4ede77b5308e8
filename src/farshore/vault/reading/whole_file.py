"""A file that has its name only when it is whole and durable.

Until then it is ``<name>.part``, so that a program that was killed, or cut off from power, leaves nothing that could
pass for the whole, and what it was to replace is still there. What is left is written over by the next one.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import struct
from collections.abc import Iterator
from pathlib import Path

from farshore.model.errors import Forbidden, Malformed, NoSpace, NotFound, Refused, Unsupported
from farshore.vault.stores.folder_sync import sync_folder

PART = ".part"
_LONGEST_NAME = 255
_LOCK = struct.pack("hhqqi", fcntl.F_WRLCK, os.SEEK_SET, 0, 1, 0)
"""One byte, by the open file (OFD): qemu-img locks other bytes of a file that it writes, and flock would be in its way
on NFS, where it locks them all."""
_DEVICES = Path("/dev")
_SHARED_MEMORY = _DEVICES / "shm"


@contextlib.contextmanager
def whole_file(path: Path, *, replace: bool) -> Iterator[tuple[int, Path]]:
    """Yield an empty file, only its user's, open and locked, and where it is; named ``path`` when the block ends
    without an error. Raises Refused if there is something that may not be replaced, or another writes it; and as
    ``explained``.
    """
    with explained(path):
        _check_name(path, replace)
        final = path.resolve()  # where a link stands for a file elsewhere, that file is replaced
        _check_no_device(path, final)
        part = final.with_name(final.name + PART)
        if len(os.fsencode(part.name)) > _LONGEST_NAME:
            raise Malformed(
                f"The name {final.name} is too long.",
                remedy=f"Choose one of at most {_LONGEST_NAME - len(PART)} bytes.",
            )
        handle = -1
        try:
            handle = _new_part(part)
            yield handle, part
            os.fsync(handle)
            _check_name(path, replace)
            part.rename(final)
            sync_folder(final.parent)
        except BaseException as error:
            ended = not isinstance(error, Exception)
            if handle >= 0 or (ended and _is_open_here(part)):
                part.unlink(missing_ok=True)
            raise
        finally:
            if handle >= 0:
                os.close(handle)


@contextlib.contextmanager
def explained(path: Path) -> Iterator[None]:
    """Translate system errors on ``path`` within the context: those that pass by themselves or by freeing space become
    TryLater."""
    try:
        yield
    except OSError as cause:
        raise _error(path, cause) from cause


def is_block_device(path: Path) -> bool:
    """Return whether ``path`` is a block device."""
    try:
        return stat.S_ISBLK(path.stat().st_mode)
    except OSError:
        return False


def _error(path: Path, cause: OSError) -> Exception:
    if cause.errno in (errno.ENOSPC, errno.EDQUOT):
        return NoSpace(f"There is no space for {path}.", remedy="Free space there, then repeat.")
    if cause.errno == errno.EFBIG:
        return Unsupported(
            f"The file system of {path} does not support files of that size.",
            remedy="Choose a place on another file system.",
        )
    if cause.errno == errno.ENOENT:
        if path.parent.is_dir():  # as in /proc
            return NotFound(f"No file can be created in {path.parent}.", remedy="Choose another place.")
        return NotFound(f"There is no folder {path.parent}.", remedy="Create it, or choose another place.")
    if cause.errno == errno.ENOTDIR:
        return NotFound(f"{path.parent} is not a folder.", remedy="Choose another place.")
    if cause.errno == errno.ENAMETOOLONG:
        return Malformed(f"The name {path.name[:40]}… is too long.", remedy="Choose a shorter one.")
    if cause.errno == errno.EROFS:
        return Forbidden(f"{path} is read-only.", remedy="Choose another place, or make this one writable.")
    if cause.errno in (errno.EACCES, errno.EPERM):
        return Forbidden(
            f"{path} cannot be written: {cause.strerror}.", remedy="Choose another place, or run this as another user."
        )
    return Refused(
        f"{path} cannot be written: {cause.strerror}.", remedy="Check the disk that it is on, or choose another place."
    )


def _check_name(path: Path, replace: bool) -> None:
    if not os.path.lexists(path) or (replace and path.is_file()):
        return
    if replace:
        raise Refused(f"{path} is neither a file nor a block device.", remedy="Choose another name.")
    raise Refused(f"{path} exists.", remedy="Choose another name, or give --replace.")


def _check_no_device(path: Path, final: Path) -> None:
    """A file among the devices is a device's name mistyped: it would fill the host's memory and be gone at a reboot."""
    if not final.is_relative_to(_DEVICES) or final.is_relative_to(_SHARED_MEMORY):
        return
    folder = final.parent
    if not folder.is_dir() or folder.stat().st_dev == _DEVICES.stat().st_dev:
        raise NotFound(f"There is no device {path}.", remedy="Give a device that `lsblk` lists, or a file elsewhere.")


def _new_part(part: Path) -> int:
    """Create the file, in place of one that a killed program left. One that is being written is locked."""
    if os.path.lexists(part):
        try:
            left = os.open(part, os.O_RDWR | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError as cause:
            raise Refused(
                f"{part} exists and cannot be opened: {cause.strerror}.",
                remedy="Remove it, or choose another name.",
            ) from cause
        try:
            _hold(left, part)
            part.unlink()
        finally:
            os.close(left)
    try:
        handle = os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError as cause:
        raise _taken(part) from cause
    try:
        _hold(handle, part)
    except BaseException:
        os.close(handle)
        raise
    return handle


def _hold(handle: int, part: Path) -> None:
    """Lock the file, which the kernel undoes when its holder is killed. Raises Refused if another has it."""
    try:
        fcntl.fcntl(handle, fcntl.F_OFD_SETLK, _LOCK)
        ours = os.path.samestat(os.fstat(handle), part.lstat())
    except (BlockingIOError, FileNotFoundError):
        ours = False
    if not ours:
        raise _taken(part)


def _is_open_here(part: Path) -> bool:
    """Whether this process has made the file, also where it was told to end between making it and knowing so."""
    try:
        wanted = part.lstat()
    except OSError:
        return False
    for number in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):  # that of the listing itself
            if os.path.samestat(os.fstat(int(number.name)), wanted):
                return True
    return False


def _taken(part: Path) -> Refused:
    return Refused(f"{part} is being written by another restore.", remedy="Wait for it, or choose another name.")
