"""Check whether anything else uses a disk, before its first byte is written, and keep others off it from then on.

A block device is opened exclusively: this refuses one that is mounted, or that device-mapper, md or swap uses,
including its partitions. QEMU does not open devices this way; it locks bytes of the file or the device's node, and so
do we. A program that does neither is found by examining every process's descriptors, as far as this process may.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
import struct
from collections.abc import Iterator
from pathlib import Path

from farshore.model.errors import Refused

_QEMU_LOCKS = struct.pack("hhqqi", fcntl.F_WRLCK, os.SEEK_SET, 100, 200, 0)
"""QEMU takes shared locks of single bytes from 100 and from 200 on, one for each right that it has or denies to others
(block/file-posix.c of QEMU: RAW_LOCK_PERM_BASE, RAW_LOCK_SHARED_BASE)."""


def keep_others_off(file: int, path: Path) -> None:
    """Lock an open file or device as a QEMU that shares it with nobody; the lock ends with the descriptor. Raises
    Refused if a QEMU uses it."""
    try:
        fcntl.fcntl(file, fcntl.F_OFD_SETLK, _QEMU_LOCKS)
    except BlockingIOError as error:
        raise Refused(
            f"{path} is in use: QEMU or another master target has locked it.",
            remedy="Shut that machine down, or end the program that holds the lock (lslocks), then repeat.",
        ) from error


def check_unused(file: int, path: Path) -> None:
    """Raise Refused if a loop device, swap or another process uses the open file or device ``path``."""
    found = os.fstat(file)
    for loop in Path("/sys/block").glob("loop*/loop/backing_file"):
        if _is_same(loop.read_text().strip(), found):
            device = loop.parents[1].name
            raise Refused(f"{path} is in use: it backs /dev/{device}.", remedy=f"Run `losetup -d /dev/{device}`.")
    for line in _lines(Path("/proc/swaps"))[1:]:
        if _is_same(line.split()[0], found):
            raise Refused(f"{path} is in use: the host uses it as swap.", remedy=f"Run `swapoff {path}`.")
    for process in _writers(found):
        raise Refused(
            f"{path} is in use: process {process} ({_name(process)}) has it open for writing.",
            remedy="End that process, or shut its machine down, then repeat.",
        )


def _writers(found: os.stat_result) -> Iterator[int]:
    """Yield other processes that have the file or device open for writing."""
    for folder in Path("/proc").iterdir():
        if not folder.name.isdecimal() or int(folder.name) == os.getpid():
            continue
        with contextlib.suppress(OSError):  # it has ended, or belongs to another user
            for descriptor in (folder / "fd").iterdir():
                with contextlib.suppress(OSError):
                    if _are_same(descriptor.stat(), found) and _may_write(folder / "fdinfo" / descriptor.name):
                        yield int(folder.name)
                        break


def _may_write(info: Path) -> bool:
    flags = next(line.split()[1] for line in info.read_text().splitlines() if line.startswith("flags:"))
    return int(flags, 8) & os.O_ACCMODE != os.O_RDONLY


def _is_same(name: str, found: os.stat_result) -> bool:
    with contextlib.suppress(OSError):
        return _are_same(Path(name).stat(), found)
    return False


def _are_same(one: os.stat_result, other: os.stat_result) -> bool:
    if stat.S_ISBLK(one.st_mode) and stat.S_ISBLK(other.st_mode):
        return one.st_rdev == other.st_rdev
    return os.path.samestat(one, other)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []


def _name(process: int) -> str:
    lines = _lines(Path(f"/proc/{process}/comm"))
    return lines[0] if lines else "ended"
