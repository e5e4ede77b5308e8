"""Write the lab disk's partitions and boot loader into a plain file: no loop device, no mount to clean up.

Partition 1 holds GRUB's core image, 2 is swap (to show that swap is not replicated), 3 is the root file system. The two
patches below set the two sector addresses that GRUB's BIOS images have for this purpose: the boot sector's address of
the core image, and the core image's address of its own second sector.
"""

from __future__ import annotations

import os
import struct
import subprocess
from dataclasses import dataclass
from pathlib import Path

from farshore.model.errors import Malformed

SECTOR = 512
MIB = 1024 * 1024
# GPT's backup header and entries need 33 sectors at the end; a whole MiB keeps the file system's size round.
TAIL_BYTES = MIB

_MBR_CODE_BYTES = 440
_BOOT_KERNEL_SECTOR_AT = 0x5C
_CORE_BLOCKLIST_AT = SECTOR - 12


@dataclass(frozen=True)
class Extent:
    """Bytes ``start`` to ``start + length`` (exclusive) of the disk; both multiples of a MiB."""

    start: int
    length: int


@dataclass(frozen=True)
class Layout:
    """Positions of the three partitions of a disk of ``disk_bytes``."""

    disk_bytes: int
    swap_bytes: int

    @property
    def boot(self) -> Extent:
        """GRUB's core image."""
        return Extent(MIB, MIB)

    @property
    def swap(self) -> Extent:
        """The swap area."""
        return Extent(2 * MIB, self.swap_bytes)

    @property
    def root(self) -> Extent:
        """The root file system: all remaining space."""
        start = self.swap.start + self.swap.length
        return Extent(start, self.disk_bytes - TAIL_BYTES - start)


def patched_boot_sector(boot_image: bytes, core_lba: int) -> bytes:
    """Return the first 440 bytes of the disk: GRUB's ``boot.img``, which loads the core image from ``core_lba``.

    Raises Malformed if ``boot_image`` is not one sector with a boot signature."""
    if len(boot_image) != SECTOR or boot_image[-2:] != b"\x55\xaa":
        raise Malformed("boot.img is not a boot sector.", remedy="Reinstall grub-pc-bin in the guest recipe.")
    code = bytearray(boot_image[:_MBR_CODE_BYTES])
    struct.pack_into("<Q", code, _BOOT_KERNEL_SECTOR_AT, core_lba)
    return bytes(code)


def patched_core(core_image: bytes, core_lba: int) -> bytes:
    """Return GRUB's core image, padded to whole sectors; its first sector loads the sectors after it.

    Raises Malformed if it does not fit the boot partition."""
    padded = bytearray(core_image + bytes(-len(core_image) % SECTOR))
    sectors = len(padded) // SECTOR
    if not 2 <= sectors <= MIB // SECTOR:
        raise Malformed(f"GRUB's core image has {sectors} sectors.", remedy="Load fewer modules into it.")
    struct.pack_into("<QH", padded, _CORE_BLOCKLIST_AT, core_lba + 1, sectors - 1)
    return bytes(padded)


def write_partitions(disk: Path, layout: Layout) -> None:
    """Create ``disk`` as a sparse file of the right size with its GPT."""
    with disk.open("wb") as file:
        file.truncate(layout.disk_bytes)
    commands = ["sgdisk", "--clear"]
    for number, (extent, kind, name) in enumerate(
        ((layout.boot, "ef02", "boot"), (layout.swap, "8200", "swap"), (layout.root, "8300", "root")), start=1
    ):
        first = extent.start // SECTOR
        last = (extent.start + extent.length) // SECTOR - 1
        commands += [f"--new={number}:{first}:{last}", f"--typecode={number}:{kind}", f"--change-name={number}:{name}"]
    subprocess.run([*commands, str(disk)], check=True, capture_output=True)


def write_swap(disk: Path, layout: Layout, uuid: str, scratch: Path) -> None:
    """Write the header of an empty swap area; ``scratch`` is a file name that may be used and is removed."""
    with scratch.open("wb") as file:
        file.truncate(layout.swap.length)
    try:
        subprocess.run(["mkswap", "--uuid", uuid, str(scratch)], check=True, capture_output=True)
        with scratch.open("rb") as file:
            header = file.read(4096)
    finally:
        scratch.unlink()
    _write_at(disk, layout.swap.start, header)


def write_root(disk: Path, layout: Layout, uuid: str, tree: Path, mke2fs_settings: Path) -> None:
    """Make the root file system from the directory ``tree``."""
    subprocess.run(
        [
            *("mkfs.ext4", "-q", "-F", "-d", str(tree), "-U", uuid, "-m", "1", "-J", "size=32"),
            # Initialised now: otherwise the guest's kernel does it in the background of its first hour.
            *("-E", f"offset={layout.root.start},lazy_itable_init=0,lazy_journal_init=0"),
            *(str(disk), f"{layout.root.length // 1024}k"),
        ],
        check=True,
        capture_output=True,
        env={**os.environ, "MKE2FS_CONFIG": str(mke2fs_settings)},
    )


def write_boot_loader(disk: Path, layout: Layout, boot_image: bytes, core_image: bytes) -> None:
    """Make the disk bootable by BIOS."""
    lba = layout.boot.start // SECTOR
    _write_at(disk, 0, patched_boot_sector(boot_image, lba))
    _write_at(disk, layout.boot.start, patched_core(core_image, lba))


def _write_at(disk: Path, offset: int, data: bytes) -> None:
    with disk.open("r+b") as file:
        file.seek(offset)
        file.write(data)
