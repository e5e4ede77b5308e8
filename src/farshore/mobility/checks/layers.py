"""Check the layers between the disks and the file systems, the file systems themselves, and swap."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import FrozenSet, Iterator, List, Set, Tuple

from farshore.api_types.machines import Finding
from farshore.mobility.capture import disks as known
from farshore.mobility.capture.disks import SYS_DEVICES, bottom_disks
from farshore.mobility.capture.extents import hidden_swaps, swap_areas
from farshore.mobility.checks.findings import error, fine, warning

FREEZABLE = frozenset({"ext2", "ext3", "ext4", "xfs", "btrfs", "f2fs", "jfs", "nilfs2", "reiserfs", "gfs2", "bcachefs"})
READ_ONLY = frozenset({"squashfs", "iso9660", "erofs", "udf", "cramfs", "romfs"})
ELSEWHERE = frozenset({"nfs", "nfs4", "cifs", "smb3", "ceph", "glusterfs", "9p", "fuse.sshfs", "lustre", "beegfs"})


@dataclass(frozen=True)
class Mount:
    """A line of mountinfo; ``device`` "major:minor" of a block device, or empty."""

    point: str
    fstype: str
    options: FrozenSet[str]
    device: str


def mounts() -> List[Mount]:
    """Return what is mounted, each file system once."""
    found: List[Mount] = []
    seen: Set[str] = set()
    for line in known.MOUNTS.read_text(encoding="utf-8", errors="surrogateescape").splitlines():
        fields = line.split()
        dash = fields.index("-")
        if fields[2] in seen:
            continue
        seen.add(fields[2])
        options = frozenset((fields[5] + "," + fields[dash + 3]).split(","))
        device = fields[2] if not fields[2].startswith("0:") else ""
        found.append(Mount(fields[4].encode().decode("unicode_escape"), fields[dash + 1], options, device))
    return found


def check_layers(devices: FrozenSet[str]) -> Iterator[Finding]:
    """Yield the findings. ``devices``: the protected disks as "major:minor"."""
    for name, place in _stacked(devices):
        uuid, level = _text(place / "dm" / "uuid"), _text(place / "md" / "level")
        if level:
            yield fine(f"md {name}", f"{level}: captured on its members, below it, in one order.")
        elif uuid.startswith("LVM-"):
            yield fine(f"volume {name}", "LVM: captured on the disks below it, in one order.")
        elif uuid.startswith("CRYPT-"):
            yield fine(
                f"encrypted {name}", "The copy is encrypted like the disk: starting elsewhere needs the same key."
            )


def check_file_systems(devices: FrozenSet[str]) -> Iterator[Finding]:
    """Yield whether each file system can be frozen, and which ones bypass the block layer."""
    for mount in mounts():
        subject = f"file system {mount.point}"
        if mount.fstype in ELSEWHERE:
            yield warning(
                subject,
                f"{mount.fstype}: its data is on another machine and is not protected from here.",
                "Protect the machine that has it, and note in the recovery plan where it is mounted from.",
            )
        if mount.fstype == "zfs":
            yield warning(
                subject,
                "zfs cannot be frozen: points are crash-consistent at best.",
                "If that is not enough, let an app-consistent hook flush it (zpool sync).",
            )
        if not mount.device or not bottom_disks(mount.device) & devices:
            continue
        if mount.options & {"dax", "dax=always"}:
            yield error(
                subject,
                "Mounted with DAX: programs write mapped data past the block layer, where it cannot be captured.",
                "Mount it with dax=never.",
            )
        if "inlinecrypt" in mount.options:
            yield error(
                subject,
                "Mounted with inlinecrypt: the hardware encrypts below the capture, so the copy would differ.",
                "Mount it without inlinecrypt: the kernel then encrypts above the capture.",
            )
        if mount.fstype in FREEZABLE:
            yield fine(subject, f"{mount.fstype}: can be frozen for clean points.")
        elif mount.fstype not in READ_ONLY:
            yield warning(
                subject,
                f"{mount.fstype} cannot be frozen: it is synchronised before each clean point instead.",
                "No action is needed for a boot partition; do not keep a database there.",
            )


def check_swap() -> Iterator[Finding]:
    """Yield findings on swap: it is useless at the recovery site, and can be most of what a machine writes."""
    hidden = dict(hidden_swaps())
    for path in swap_areas():
        if path in hidden:
            yield warning(
                f"swap {path}",
                f"It is sent like data: {hidden[path]}",
                "Move it to a partition, an LVM linear volume, an md mirror, or a file on ext4 or xfs on one of them.",
            )
        else:
            yield fine(f"swap {path}", "It is not sent.")


def _stacked(devices: FrozenSet[str]) -> Iterator[Tuple[str, Path]]:
    for place in sorted(known.SYS_BLOCK.iterdir()):
        real = place.resolve()
        if any((real / "slaves").glob("*")) and bottom_disks(_text(real / "dev")) & devices:
            yield _text(real / "dm" / "name") or place.name, SYS_DEVICES / _text(real / "dev")


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:  # not every device has every attribute
        return ""
