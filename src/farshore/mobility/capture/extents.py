"""Where on its whole disk a file or a swap area lies: what to leave out of the capture.

A file's extents come from FIEMAP; only file systems whose FIEMAP speaks of device addresses, on a plain disk or
partition, can answer. An excluded file must not move: preallocate it, and take the exclusion back before deleting it,
as its extents may become another file's.
"""

from __future__ import annotations

import fcntl
import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import List, Tuple

from farshore.mobility.capture.disks import SYS_DEVICES, Disk, disk_of
from farshore.model.errors import Refused, Unsupported
from farshore.model.identifiers import BLOCK, SECTOR

SWAPS = Path("/proc/swaps")
_FIEMAP = 0xC020660B
_FLAG_SYNC = 1
_HEADER = struct.Struct("=QQLLLL")
_EXTENT = struct.Struct("=QQQQQLLLL")
_EXTENTS_AT_ONCE = 256
_LAST = 0x1
_NOT_PLACED = 0x2 | 0x4 | 0x8 | 0x80 | 0x100 | 0x200 | 0x400  # unknown, delayed, encoded, encrypted, inline, tail …


@dataclass(frozen=True)
class SectorRange:
    """Sectors of a whole disk, the end exclusive."""

    start: int
    end: int


def file_ranges(path: Path) -> Tuple[Disk, Tuple[SectorRange, ...]]:
    """The disk that a file lies on, and its ranges there, sorted and joined.

    Raises Unsupported where the file system or a layer below it hides the place, Refused if the file has parts that
    have no place yet.
    """
    with path.open("rb") as file:
        number = os.fstat(file.fileno()).st_dev
        if os.major(number) == 0:
            raise Unsupported(
                f"The file system of {path} does not tell where on its disk a file lies.",
                remedy="Move the state directory to an ext4 or xfs file system on a plain disk or partition.",
            )
        extents = _extents(file.fileno(), path)
    device = f"{os.major(number)}:{os.minor(number)}"
    disk, offset = _whole_disk(device)
    ranges = [SectorRange((offset + start) // SECTOR, (offset + start + length) // SECTOR) for start, length in extents]
    return disk, join(ranges)


def swap_ranges() -> List[Tuple[Disk, Tuple[SectorRange, ...]]]:
    """The swap areas in use, without their first page: it holds the label by which a recovered machine finds them.

    Areas that lie where ``file_ranges`` cannot follow are passed over: then they are captured like the rest.
    """
    found = []
    for line in SWAPS.read_text(encoding="utf-8").splitlines()[1:]:
        path = Path(line.split()[0].encode().decode("unicode_escape"))
        try:
            if path.is_block_device():
                number = path.stat().st_rdev
                disk, offset = _whole_disk(f"{os.major(number)}:{os.minor(number)}")
                size = int((SYS_DEVICES / f"{os.major(number)}:{os.minor(number)}" / "size").read_text()) * SECTOR
                ranges: Tuple[SectorRange, ...] = (SectorRange(offset // SECTOR, (offset + size) // SECTOR),)
            else:
                disk, ranges = file_ranges(path)
        except Unsupported:
            continue
        found.append((disk, without_start(ranges, BLOCK // SECTOR)))
    return found


def without_start(ranges: Tuple[SectorRange, ...], sectors: int) -> Tuple[SectorRange, ...]:
    """The ranges less their first sectors; ranges in the order of the file, the first being its beginning."""
    if not ranges:
        return ()
    first, rest = ranges[0], ranges[1:]
    shorter = SectorRange(first.start + sectors, first.end)
    return ((shorter,) if shorter.start < shorter.end else ()) + rest


def join(ranges: List[SectorRange]) -> Tuple[SectorRange, ...]:
    """Sorted, with those that touch or overlap made one."""
    joined: List[SectorRange] = []
    for one in sorted(ranges, key=lambda r: r.start):
        if joined and one.start <= joined[-1].end:
            joined[-1] = SectorRange(joined[-1].start, max(joined[-1].end, one.end))
        else:
            joined.append(one)
    return tuple(joined)


def _whole_disk(device: str) -> Tuple[Disk, int]:
    """A plain disk or partition as its disk and its offset in bytes."""
    place = (SYS_DEVICES / device).resolve()
    slaves = place / "slaves"
    if slaves.exists() and any(slaves.iterdir()):
        raise Unsupported(
            f"{place.name} is a stacked device: where its blocks lie on the disks is not known.",
            remedy="Move the state directory to an ext4 or xfs file system on a plain disk or partition.",
        )
    start = place / "start"
    return disk_of(device), int(start.read_text()) * SECTOR if start.exists() else 0


def _extents(descriptor: int, path: Path) -> List[Tuple[int, int]]:
    """(device offset, length) in bytes of each extent, in file order."""
    found: List[Tuple[int, int]] = []
    at = 0
    while True:
        request = bytearray(_HEADER.size + _EXTENTS_AT_ONCE * _EXTENT.size)
        _HEADER.pack_into(request, 0, at, (1 << 64) - 1 - at, _FLAG_SYNC, 0, _EXTENTS_AT_ONCE, 0)
        try:
            fcntl.ioctl(descriptor, _FIEMAP, request)
        except OSError as error:
            raise Unsupported(
                f"The file system of {path} does not tell where on its disk a file lies: {error.strerror}.",
                remedy="Move the state directory to an ext4 or xfs file system.",
            ) from error
        count = _HEADER.unpack_from(request)[3]
        for i in range(count):
            logical, physical, length, _, _, flags, *_ = _EXTENT.unpack_from(request, _HEADER.size + i * _EXTENT.size)
            if flags & _NOT_PLACED:
                raise Refused(
                    f"Part of {path} has no fixed place on its disk.",
                    remedy="Preallocate the file (fallocate) and sync it, on a file system that does not compress.",
                )
            found.append((physical, length))
            at = logical + length
            if flags & _LAST:
                return found
        if not count:
            return found
