"""Whether a disk may be started: not while a master target's notice stands at its start. Asked by whatever starts a
machine from a disk that somebody else wrote."""

from __future__ import annotations

from pathlib import Path

from farshore.formats.disk_notice import NOTICE_BYTES, DiskNotice, decode_notice
from farshore.model.errors import Damaged, NotFound, WrongState


def notice_on(path: Path) -> DiskNotice | None:
    """Read the notice at the start of a raw file or block device; None if there is none. Raises NotFound, Damaged and
    Unsupported as decode_notice."""
    try:
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
