"""Whether a disk may be started: not while a master target's notice stands at its start. Asked by whatever starts a
machine from a disk that somebody else wrote."""

from __future__ import annotations

import stat
from pathlib import Path

from farshore.formats.disk_notice import NOTICE_BYTES, DiskNotice, decode_notice
from farshore.model.errors import Damaged, NotFound, WrongState


def is_disk(mode: int) -> bool:
    """Whether what has that mode can be a disk. Nothing else is opened: a pipe keeps its reader waiting for ever, and
    some devices take an open for an order."""
    return stat.S_ISREG(mode) or stat.S_ISBLK(mode)


def notice_on(path: Path) -> DiskNotice | None:
    """Read the notice at the start of a raw file or block device; None if there is none. Raises NotFound, Damaged and
    Unsupported as decode_notice."""
    try:
        if not is_disk(path.stat().st_mode):
            raise NotFound(f"{path} is neither a file nor a block device.", remedy="Give the disk itself.")
        with path.open("rb") as file:
            return decode_notice(file.read(NOTICE_BYTES))
    except OSError as error:
        raise NotFound(f"{path} cannot be read: {error.strerror}.", remedy="Check the path.") from error


def check_whole(path: Path) -> None:
    """Raise WrongState for a disk that is half written."""
    try:
        notice = notice_on(path)
    except Damaged as error:
        raise WrongState(f"{path}: {error.message}", remedy=error.remedy) from error
    if notice is not None:
        raise WrongState(
            f"{path} is half written: a master target is making it disk {notice.disk} of machine {notice.machine}.",
            remedy="Finish that first (`farshore-master-target finish`), or take another disk.",
        )
