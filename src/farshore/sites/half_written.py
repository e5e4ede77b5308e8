"""Check that a disk may be started: not while a master target's notice is at its start. Every program that starts a
machine from a disk which another program wrote must call this."""

from __future__ import annotations

import stat
from pathlib import Path

from farshore.formats.disk_notice import NOTICE_BYTES, DiskNotice, decode_notice
from farshore.model.errors import Damaged, NotFound, WrongState


def is_disk(mode: int) -> bool:
    """Return whether a file of this mode can be a disk. Nothing else is opened: a pipe keeps its reader waiting for
    ever, and some devices treat an open as a command."""
    return stat.S_ISREG(mode) or stat.S_ISBLK(mode)


def notice_on(path: Path) -> DiskNotice | None:
    """Read the notice at the start of a raw file or block device; None if there is none. Raises NotFound, and Damaged
    and Unsupported as decode_notice."""
    try:
        if not is_disk(path.stat().st_mode):
            raise NotFound(f"{path} is neither a file nor a block device.", remedy="Give the path of the disk itself.")
        with path.open("rb") as file:
            return decode_notice(file.read(NOTICE_BYTES))
    except OSError as error:
        raise NotFound(f"{path} cannot be read: {error.strerror}.", remedy="Check the path.") from error


def check_whole(path: Path) -> None:
    """Raise WrongState if the disk is half written."""
    try:
        notice = notice_on(path)
    except Damaged as error:
        raise WrongState(f"{path}: {error.message}", remedy=error.remedy) from error
    if notice is not None:
        raise WrongState(
            f"{path} is half written: a master target is making it disk {notice.disk} of machine {notice.machine}.",
            remedy="Finish that first (`farshore-master-target finish`), or take another disk.",
        )
