"""List the machine's whole disks, as sysfs describes them, and the disks below mounted file systems.

Only the bottom of the stack is captured: writes to LVM, md and partitions arrive there. Reads /sys and /proc, opens no
device.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Dict, FrozenSet, Iterator, List, Optional, Set, Tuple

from farshore.model.errors import NotFound
from farshore.model.identifiers import SECTOR

SYS_BLOCK = Path("/sys/block")
SYS_DEVICES = Path("/sys/dev/block")
MOUNTS = Path("/proc/self/mountinfo")
_BUFFERED = frozenset({"ext2", "ext3", "ext4", "vfat", "msdos"})
_REMOVABLE = ("sr", "fd")
_MADE_UP = ("loop", "ram", "zram", "nbd", "dm-", "md")


@dataclass(frozen=True)
class Partition:
    """A part of a disk; ``start`` and ``size`` in bytes."""

    name: str
    device: str
    start: int
    size: int


@dataclass(frozen=True)
class Disk:
    """A whole disk; ``size`` in bytes."""

    name: str
    major: int
    minor: int
    size: int
    logical_block_size: int = SECTOR
    physical_block_size: int = SECTOR
    serial: str = ""
    wwid: str = ""
    sequence: int = 0
    """The kernel's number of the disk in this place: another disk there has another number. 0: not reported (before
    5.15)."""
    partitions: Tuple[Partition, ...] = ()

    @property
    def device(self) -> str:
        """As in /sys/dev/block."""
        return f"{self.major}:{self.minor}"

    @property
    def path(self) -> Path:
        """The device node."""
        return Path("/dev") / self.name

    @property
    def sectors(self) -> int:
        """Sectors of 512 bytes."""
        return self.size // SECTOR


def find_disks() -> List[Disk]:
    """Return the machine's disks that hold data of their own: no loop, RAM, network, device-mapper or md devices."""
    found: List[Disk] = []
    for place in sorted(SYS_BLOCK.iterdir()):
        with contextlib.suppress(NotFound):  # it is being removed at this moment
            found.append(_read_disk(place))
    return [
        disk
        for disk in found
        if disk.size and not disk.name.startswith(_REMOVABLE + _MADE_UP) and not _is_hidden(disk.name)
    ]


def disk_at(path: Path) -> Disk:
    """Return the whole disk behind a device node (its own or a partition's). Raises NotFound if there is none."""
    number = path.stat().st_rdev
    return disk_of(f"{os.major(number)}:{os.minor(number)}")


def disk_of(device: str) -> Disk:
    """Return the whole disk that "major:minor" is, or is a partition of. Raises NotFound."""
    link = SYS_DEVICES / device
    if not link.exists():
        raise NotFound(f"There is no block device {device}.", remedy="Check that the disk is still attached.")
    place = link.resolve()
    return _read_disk(place.parent if (place / "partition").exists() else place)


def bottom_disks(device: str) -> FrozenSet[str]:
    """Return the whole disks ("major:minor") at the bottom of a stack of LVM, md, dm-crypt and partitions."""
    found: Set[str] = set()
    waiting = [device]
    while waiting:
        place = (SYS_DEVICES / waiting.pop()).resolve()
        if (place / "partition").exists():
            place = place.parent
        slaves = sorted((place / "slaves").iterdir()) if (place / "slaves").exists() else []
        if slaves:
            waiting.extend(_text(slave / "dev") for slave in slaves)
        elif (place / "dev").exists():
            found.add(_text(place / "dev"))
    return frozenset(found)


def mounted_on() -> Dict[str, FrozenSet[str]]:
    """Return the mount point of each mounted file system on a block device, and the whole disks below it."""
    found: Dict[str, FrozenSet[str]] = {}
    for mount_point, device in _mounts():
        disks = bottom_disks(device)
        if disks:
            found[mount_point] = disks
    return found


def mounted_once() -> Dict[str, FrozenSet[str]]:
    """Return the same as ``mounted_on``, with one mount point for each file system. One file system may be mounted at
    several places, or with btrfs in parts, but it can be frozen only once."""
    found = mounted_on()
    seen: Set[str] = set()
    for mount_point, superblock in _superblocks():
        if superblock in seen:
            found.pop(mount_point, None)
        seen.add(superblock)
    return found


def buffered_mounts() -> List[Path]:
    """Return the mount points of those kinds of file systems that write through buffer heads."""
    found = []
    for line in MOUNTS.read_text(encoding="utf-8", errors="surrogateescape").splitlines():
        fields = line.split()
        if fields[fields.index("-") + 1] in _BUFFERED:
            found.append(Path(fields[4].encode().decode("unicode_escape")))
    return found


def _superblocks() -> Iterator[Tuple[str, str]]:
    """Yield each mount point and the device number of its file system."""
    for line in MOUNTS.read_text(encoding="utf-8", errors="surrogateescape").splitlines():
        fields = line.split()
        yield fields[4].encode().decode("unicode_escape"), fields[2]


def _mounts() -> Iterator[Tuple[str, str]]:
    for line in MOUNTS.read_text(encoding="utf-8", errors="surrogateescape").splitlines():
        fields = line.split()
        source = fields[fields.index("-") + 2]
        device = fields[2]
        if device.startswith("0:"):  # btrfs shows a different device number
            device = _device_number(source)
        if device:
            yield fields[4].encode().decode("unicode_escape"), device


def _device_number(source: str) -> str:
    if not source.startswith("/dev/") or not Path(source).is_block_device():
        return ""
    number = Path(source).stat().st_rdev
    return f"{os.major(number)}:{os.minor(number)}"


def _read_disk(place: Path) -> Disk:
    """Return the disk. Raises NotFound if it is removed meanwhile: then attributes are missing or empty."""
    try:
        return _described(place)
    except (OSError, ValueError) as error:
        raise NotFound(
            f"Disk {place.name} was removed, or the kernel does not identify it.",
            remedy="Check that the disk is still attached.",
        ) from error


def _described(place: Path) -> Disk:
    major, minor = _text(place / "dev").split(":")
    return Disk(
        name=place.name.replace("!", "/"),
        major=int(major),
        minor=int(minor),
        size=int(_text(place / "size")) * SECTOR,
        logical_block_size=int(_text(place / "queue/logical_block_size") or SECTOR),
        physical_block_size=int(_text(place / "queue/physical_block_size") or SECTOR),
        serial=_first(place, ("serial", "device/serial", "device/vpd_pg80")),
        wwid=_first(place, ("wwid", "device/wwid")),
        sequence=int(_text(place / "diskseq") or 0),
        partitions=tuple(
            Partition(
                name=part.name,
                device=_text(part / "dev"),
                start=int(_text(part / "start")) * SECTOR,
                size=int(_text(part / "size")) * SECTOR,
            )
            for part in sorted(place.iterdir(), key=_partition_number)
            if (part / "partition").exists()
        ),
    )


def _partition_number(part: Path) -> int:
    return int(_text(part / "partition") or 0)


def _is_hidden(name: str) -> bool:
    return _text(SYS_BLOCK / name.replace("/", "!") / "hidden") == "1"


def _first(place: Path, names: Tuple[str, ...]) -> str:
    return next(filter(None, (_text(place / name) for name in names)), "")


def _text(path: Path) -> str:
    raw = _bytes(path)
    return "" if raw is None else "".join(c for c in raw.decode("ascii", "replace") if c.isprintable()).strip()


def _bytes(path: Path) -> Optional[bytes]:
    try:
        return path.read_bytes()
    except OSError:  # not every disk has every attribute, and some answer with an I/O error
        return None
