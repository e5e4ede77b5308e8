"""Find where on its whole disk a file or a swap area is, so that it can be excluded from capture.

A file's extents come from FIEMAP. That works only for file systems whose FIEMAP returns device addresses (not btrfs),
on layers that stacking.py can resolve. An excluded file must not move: preallocate it, and remove the exclusion before
deleting it, because its extents may become another file's.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Dict, List, Sequence, Tuple

from farshore.mobility.capture.disks import SYS_DEVICES, Disk
from farshore.mobility.capture.stacking import Place, places_below
from farshore.model.errors import Refused, Unsupported
from farshore.model.identifiers import BLOCK, SECTOR

SWAPS = Path("/proc/swaps")
_FIEMAP = 0xC020660B
_FLAG_SYNC = 1
_HEADER = struct.Struct("=QQLLLL")
_EXTENT = struct.Struct("=QQQQQLLLL")
_EXTENTS_AT_ONCE = 256
_LAST = 0x1
# Unknown, delayed, encoded, encrypted, inline, tail …; shared: the next write goes elsewhere.
_NOT_PLACED = 0x2 | 0x4 | 0x8 | 0x80 | 0x100 | 0x200 | 0x400 | 0x2000


@dataclass(frozen=True)
class SectorRange:
    """Sectors of a whole disk, the end exclusive."""

    start: int
    end: int


Ranges = Dict[Disk, Tuple[SectorRange, ...]]
"""By disk: sorted, and joined if adjacent."""


def file_ranges(path: Path, *, settle: bool = True) -> Ranges:
    """Return the disks that a file is on (several below a mirror), and its ranges there. ``settle``: write it to disk
    first.

    Raises Unsupported if the file system or a layer below it hides the place, Refused if parts of the file have no
    place of their own."""
    return _on_disks(_file_places(path, settle=settle))


def swap_ranges() -> Ranges:
    """Return the swap areas in use, without their first page, which holds the label by which a recovered machine finds
    them.

    Areas whose place ``file_ranges`` cannot find are omitted: they are captured like other data."""
    found: List[Place] = []
    for path in swap_areas():
        with contextlib.suppress(Unsupported, Refused, OSError):
            found += _swap_places(path)
    return _on_disks(found)


def swap_areas() -> List[Path]:
    """Return the swap areas in use: block devices and files. Swap in compressed memory is not included."""
    lines = SWAPS.read_text(encoding="utf-8").splitlines()[1:]
    paths = [Path(line.split()[0].encode().decode("unicode_escape")) for line in lines]
    return [path for path in paths if not path.name.startswith("zram")]


def hidden_swaps() -> List[Tuple[Path, str]]:
    """Return the swap areas that are captured like other data, with the reason."""
    found = []
    for path in swap_areas():
        try:
            _swap_places(path)
        except (Unsupported, Refused) as error:
            found.append((path, error.message))
        except OSError as error:  # of another mount namespace, or deleted, or no longer a swap area
            found.append((path, f"{path} cannot be opened here ({error.strerror}), so its place is not known."))
    return found


def _swap_places(path: Path) -> List[Place]:
    if not path.is_block_device():
        return _file_places(path, without=BLOCK)
    number = path.stat().st_rdev
    device = f"{os.major(number)}:{os.minor(number)}"
    size = int((SYS_DEVICES / device / "size").read_text(encoding="ascii")) * SECTOR
    return places_below(device, BLOCK, size - BLOCK)


def _file_places(path: Path, without: int = 0, *, settle: bool = True) -> List[Place]:
    """Return the places of a file's contents on its disk, without its first ``without`` bytes."""
    with path.open("rb") as file:
        number = os.fstat(file.fileno()).st_dev
        if os.major(number) == 0:
            raise Unsupported(
                f"The file system of {path} does not report where a file is on its disk.",
                remedy="Move the state directory to an ext4 or xfs file system.",
            )
        extents = _extents(file.fileno(), path, settle=settle)
    device = f"{os.major(number)}:{os.minor(number)}"
    found: List[Place] = []
    for start, length in extents:
        skipped = min(without, length)
        without -= skipped
        if length > skipped:
            found += places_below(device, start + skipped, length - skipped)
    return found


def _on_disks(places: Sequence[Place]) -> Ranges:
    by_disk: Dict[Disk, List[SectorRange]] = {}
    for place in places:
        by_disk.setdefault(place.disk, []).append(SectorRange(place.start // SECTOR, place.end // SECTOR))
    return {disk: join(ranges) for disk, ranges in by_disk.items()}


def join(ranges: List[SectorRange]) -> Tuple[SectorRange, ...]:
    """Return the extents sorted, with those that touch or overlap joined."""
    joined: List[SectorRange] = []
    for one in sorted(ranges, key=lambda r: r.start):
        if joined and one.start <= joined[-1].end:
            joined[-1] = SectorRange(joined[-1].start, max(joined[-1].end, one.end))
        else:
            joined.append(one)
    return tuple(joined)


def _extents(descriptor: int, path: Path, *, settle: bool = True) -> List[Tuple[int, int]]:
    """(device offset, length) in bytes of each extent, in file order."""
    found: List[Tuple[int, int]] = []
    at = 0
    flags = _FLAG_SYNC if settle else 0
    while True:
        request = bytearray(_HEADER.size + _EXTENTS_AT_ONCE * _EXTENT.size)
        _HEADER.pack_into(request, 0, at, (1 << 64) - 1 - at, flags, 0, _EXTENTS_AT_ONCE, 0)
        try:
            fcntl.ioctl(descriptor, _FIEMAP, request)
        except OSError as error:
            raise Unsupported(
                f"The file system of {path} does not report where a file is on its disk: {error.strerror}.",
                remedy="Move the state directory to an ext4 or xfs file system.",
            ) from error
        count = _HEADER.unpack_from(request)[3]
        for i in range(count):
            logical, physical, length, _, _, how, *_ = _EXTENT.unpack_from(request, _HEADER.size + i * _EXTENT.size)
            if how & _NOT_PLACED:
                raise Refused(
                    f"Part of {path} has no fixed place on its disk.",
                    remedy="Preallocate the file (fallocate) and sync it, on a file system that does not compress.",
                )
            found.append((physical, length))
            at = logical + length
            if how & _LAST:
                return found
        if not count:
            return found
