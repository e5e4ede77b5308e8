"""Choose which disks are protected, their numbers, and their excluded parts.

A disk keeps its number as long as the agent's state lasts: by its world-wide name or serial number, otherwise by its
name. Swap areas and the agent's own .hrl file are excluded.
"""

from __future__ import annotations

import contextlib
import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Dict, FrozenSet, List, Mapping, Optional, Sequence, Tuple

from farshore.client.credentials import read_private, write_private
from farshore.mobility.capture.disks import SYS_BLOCK, Disk, find_disks, mounted_on
from farshore.mobility.capture.extents import SWAPS, SectorRange, file_ranges, join, swap_ranges
from farshore.mobility.copying.disk_reader import CopiedDisk
from farshore.mobility.copying.named_disks import present
from farshore.model.errors import NotFound, Refused, Unsupported
from farshore.model.identifiers import SECTOR, DiskNumber

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ProtectedDisk:
    """A disk with its number and the sectors of it that are not sent."""

    number: DiskNumber
    disk: Disk
    excluded: Tuple[SectorRange, ...]
    boot: bool = False

    def copied(self) -> CopiedDisk:
        """Return the disk in the form for the copy."""
        ranges = tuple((one.start * SECTOR, one.end * SECTOR) for one in self.excluded)
        return CopiedDisk(self.number, self.disk.path, self.disk.size, ranges)


class DiskNumbers:
    """The assigned numbers, kept in a file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            known = json.loads(read_private(path))
        except NotFound:
            known = {}
        self._known: Dict[str, int] = {str(name): int(number) for name, number in known.items()}
        self._kept = self._known.copy()
        self._unkept_told = False

    def number(self, disk: Disk) -> DiskNumber:
        """Return the disk's number; a new disk gets the next unused one.

        If the file cannot be written, this is retried at each call. A run that does not know a number may give it to
        another disk: that costs a comparison, while a new disk without a number would not be protected."""
        identity = disk.wwid or disk.serial or disk.name
        if identity not in self._known:
            self._known[identity] = max(self._known.values(), default=-1) + 1
        if self._known != self._kept:
            self._keep()
        return DiskNumber(self._known[identity])

    def _keep(self) -> None:
        try:
            write_private(self._path, json.dumps(self._known).encode())
        except OSError as error:
            if not self._unkept_told:
                log.warning("The disks' numbers cannot be kept in %s (%s).", self._path, error.strerror)
            self._unkept_told = True
        else:
            self._kept, self._unkept_told = self._known.copy(), False


def protected_disks(
    numbers: DiskNumbers, given: Sequence[Path], spill: Optional[Path], without: Sequence[int]
) -> List[ProtectedDisk]:
    """Return all disks of the machine, or those ``given`` that exist, except the numbers in ``without``. Raises
    NotFound."""
    return [one for one in all_disks(numbers, given, spill) if one.number not in without]


def all_disks(numbers: DiskNumbers, given: Sequence[Path], spill: Optional[Path]) -> List[ProtectedDisk]:
    """Return all disks, before any is excluded by its number. Raises NotFound."""
    disks = [disk for disk in map(present, given) if disk is not None] if given else find_disks()
    if not disks:
        raise NotFound("This machine has no disk that can be protected.", remedy="Name one with --disk.")
    excluded = _excluded(spill)
    root = mounted_on().get("/", frozenset())
    return [
        ProtectedDisk(numbers.number(disk), disk, excluded.get(disk.device, ()), disk.device in root) for disk in disks
    ]


def disks_seen(spill: Optional[Path] = None) -> FrozenSet[Tuple[str, str]]:
    """Return (name, size) and (name, sequence) of every block device, the swap areas, and the place of the .hrl file,
    which defragmentation may change. A cheap check that shows whether a closer one is necessary."""
    found = {("swap", line.split()[0]) for line in SWAPS.read_text(encoding="utf-8").splitlines()[1:]}
    if spill is not None:
        with contextlib.suppress(OSError, Unsupported, Refused):
            found.add((str(spill), repr(file_ranges(spill, settle=False))))
    for place in SYS_BLOCK.iterdir():
        with contextlib.suppress(OSError):  # it is being removed at this moment
            found.add((place.name, (place / "size").read_text(encoding="ascii")))
            found.add((place.name, "sequence " + (place / "diskseq").read_text(encoding="ascii")))
    return frozenset(found)


def spill_is_safe(path: Path, disks: Sequence[Disk]) -> bool:
    """Return whether the .hrl file at ``path`` may be written: not if its own writes would be captured."""
    try:
        file_ranges(path)
    except (Unsupported, Refused) as error:
        below = mounted_on().get(str(_mount_point(path)), frozenset())
        if below & {disk.device for disk in disks}:
            log.warning("There will be no .hrl file: %s", error)
            return False
    return True


def _mount_point(path: Path) -> Path:
    return next(place for place in path.resolve().parents if place.is_mount())


def _excluded(spill: Optional[Path]) -> Mapping[str, Tuple[SectorRange, ...]]:
    found: Dict[str, List[SectorRange]] = {}
    places = [swap_ranges()]
    if spill is not None:
        with contextlib.suppress(Unsupported, Refused):  # spill_is_safe: then it is on another disk
            places.append(file_ranges(spill))
    for disk, ranges in (item for one in places for item in one.items()):
        found.setdefault(disk.device, []).extend(ranges)
    return {device: join(ranges) for device, ranges in found.items()}
