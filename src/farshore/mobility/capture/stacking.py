"""Resolve a range of a block device to the whole disks below it: through partitions, LVM's linear volumes and md's
mirrors, where that is exact. Everything else (stripes, parity, snapshots, encryption, multipath) is refused, because a
range that was excluded by mistake would be lost."""

from __future__ import annotations

import fcntl
import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import List

from farshore.mobility.capture.disks import SYS_DEVICES, Disk, disk_of
from farshore.model.errors import Unsupported
from farshore.model.identifiers import SECTOR

CONTROL = Path("/dev/mapper/control")
_TABLE_STATUS = 0xC138FD0C  # DM_TABLE_STATUS of <linux/dm-ioctl.h>
_STATUS_TABLE = 1 << 4
_BUFFER_FULL = 1 << 8
_HEADER = struct.Struct("=3I4I3IQ128s129s7x")
_TARGET = struct.Struct("=QQiI16s")
_MOST_BYTES = 1 << 20
_REMEDY = "A partition, an LVM linear volume or an md mirror can be left out; elsewhere it is captured like the rest."


@dataclass(frozen=True)
class Place:
    """A range of a whole disk; bytes, the end exclusive."""

    disk: Disk
    start: int
    end: int


@dataclass(frozen=True)
class Target:
    """A row of a device-mapper table. ``start`` and ``length`` in sectors; ``parameters`` as the kernel prints them."""

    start: int
    length: int
    kind: str
    parameters: str


def places_below(device: str, start: int, length: int) -> List[Place]:
    """Return where bytes [start, start + length) of "major:minor" are, in that order; the places of a mirror together.

    Raises Unsupported if a layer hides them."""
    place = (SYS_DEVICES / device).resolve()
    if (place / "partition").exists():
        offset = int((place / "start").read_text(encoding="ascii")) * SECTOR
        return places_below((place.parent / "dev").read_text(encoding="ascii").strip(), start + offset, length)
    if (place / "dm").exists():
        return _below_mapper(place, device, start, length)
    if (place / "md").exists():
        return _below_mirror(place, start, length)
    if any((place / "slaves").glob("*")):
        raise Unsupported(f"{place.name} is a stacked device of an unknown kind.", remedy=_REMEDY)
    return [Place(disk_of(device), start, start + length)]


def _below_mapper(place: Path, device: str, start: int, length: int) -> List[Place]:
    # Read only for LVM: the table of an encrypted volume contains its key.
    if not (place / "dm" / "uuid").read_text(encoding="ascii").startswith("LVM-"):
        raise Unsupported(f"{place.name} is a device-mapper device that does not belong to LVM.", remedy=_REMEDY)
    found: List[Place] = []
    end = start + length
    for target in read_table(device):
        low, high = target.start * SECTOR, (target.start + target.length) * SECTOR
        if high <= start or low >= end:
            continue
        if target.kind != "linear":
            raise Unsupported(f"{place.name} is a volume of kind {target.kind}, not linear.", remedy=_REMEDY)
        below, offset = target.parameters.split()
        first, last = max(start, low), min(end, high)
        found += places_below(below, first - low + int(offset) * SECTOR, last - first)
    return found


def _below_mirror(place: Path, start: int, length: int) -> List[Place]:
    level = (place / "md" / "level").read_text(encoding="ascii").strip()
    if level != "raid1":
        raise Unsupported(f"{place.name} is an md array of level {level}, not a mirror.", remedy=_REMEDY)
    found: List[Place] = []
    for member in sorted((place / "md").glob("dev-*")):
        offset = int((member / "offset").read_text(encoding="ascii")) * SECTOR
        below = (member / "block" / "dev").read_text(encoding="ascii").strip()
        found += places_below(below, start + offset, length)
    return found


def read_table(device: str) -> List[Target]:
    """Return the device-mapper table of "major:minor". Raises Unsupported if the kernel does not return it."""
    major, minor = map(int, device.split(":"))
    number = minor & 0xFF | major << 8 | (minor & ~0xFF) << 12
    size = 1 << 14
    while True:
        request = bytearray(size)
        _HEADER.pack_into(request, 0, 4, 0, 0, size, _HEADER.size, 0, 0, _STATUS_TABLE, 0, 0, number, b"", b"")
        try:
            descriptor = os.open(CONTROL, os.O_RDWR | os.O_CLOEXEC)
            try:
                fcntl.ioctl(descriptor, _TABLE_STATUS, request)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise Unsupported(
                f"The table of device {device} cannot be read: {error.strerror}.", remedy=_REMEDY
            ) from error
        flags = _HEADER.unpack_from(request)[7]
        if not flags & _BUFFER_FULL or size >= _MOST_BYTES:
            return decode_table(request)
        size *= 4


def decode_table(answer: bytearray) -> List[Target]:
    """Return the targets in the kernel's answer."""
    fields = _HEADER.unpack_from(answer)
    begin, count = fields[4], fields[5]
    found = []
    at = begin
    for _ in range(count):
        start, length, _status, following, kind = _TARGET.unpack_from(answer, at)
        text = at + _TARGET.size
        parameters = answer[text : answer.index(0, text)].decode("ascii")
        found.append(Target(start, length, kind.rstrip(b"\0").decode("ascii"), parameters))
        at = begin + following
    return found
