"""The disks that were named with ``--disk``: each must be an existing whole disk, named once.

A path that was a disk at an earlier start may be missing at a later one: the others remain protected, a finding names
it, and it is included when it returns. So the paths that were disks are stored in a file.
"""

from __future__ import annotations

import json
import logging
import os
import stat
from pathlib import Path
from typing import Dict, FrozenSet, Optional, Sequence

from farshore.client.credentials import read_private, write_private
from farshore.mobility.capture.disks import Disk, disk_of
from farshore.model.errors import NotFound, Refused

log = logging.getLogger(__name__)


def accept_named(given: Sequence[Path], kept: Path) -> None:
    """Accept the paths of ``--disk``, and store them in the file ``kept``.

    Raises NotFound for a path that is not a disk and never was, Refused for a partition, or a disk that is named
    twice."""
    if not given:
        return
    before = _read(kept)
    for path in given:
        disk = _whole(path)
        if disk is None and str(path) not in before:
            raise NotFound(f"{path} is not a disk of this machine.", remedy="Name one that lsblk --nodeps lists.")
    _refuse_twice(given)
    accepted = before | {str(path) for path in given}
    if accepted != before:
        try:
            write_private(kept, json.dumps(sorted(accepted)).encode())
        except OSError as problem:  # a full disk must not prevent the machine's protection
            log.warning("The names of the disks cannot be kept in %s (%s).", kept, problem.strerror)


def present(path: Path) -> Optional[Disk]:
    """Return the disk at ``path``, or the one that it is a partition of. None if it is missing now."""
    device = _device(path)
    if device is None:
        return None
    try:
        disk = disk_of(device)
    except NotFound:
        return None
    return disk if disk.size else None


def _whole(path: Path) -> Optional[Disk]:
    """Return the disk at ``path``, None if there is none. Raises Refused for a partition."""
    device, disk = _device(path), present(path)
    if disk is not None and disk.device != device:
        raise Refused(
            f"{path} is a partition of {disk.path}. Whole disks are protected, not partitions.",
            remedy=f"Name the disk: --disk {disk.path}",
        )
    return disk


def _refuse_twice(given: Sequence[Path]) -> None:
    names: Dict[str, Path] = {}
    for path in given:
        identity = _device(path) or str(path)
        if identity in names:
            other = names[identity]
            which = f"{path} is named twice." if other == path else f"{other} and {path} are the same disk."
            raise Refused(which, remedy="Name each disk once.")
        names[identity] = path


def _device(path: Path) -> Optional[str]:
    """ "major:minor" of the block device at ``path``. A character device's number means something else."""
    try:
        found = path.stat()
    except OSError:
        return None
    if not stat.S_ISBLK(found.st_mode):
        return None
    return f"{os.major(found.st_rdev)}:{os.minor(found.st_rdev)}"


def _read(kept: Path) -> FrozenSet[str]:
    try:
        return frozenset(map(str, json.loads(read_private(kept))))
    except (NotFound, ValueError):
        return frozenset()
