"""What to know about a restored disk whose sectors are not those of where it was restored to.

Partition tables count in sectors: a disk with sectors of 4,096 bytes shows no partitions where they have 512.
"""

from __future__ import annotations

import fcntl
import os
import struct
from pathlib import Path

from farshore.export.image.convert import ImageFormat
from farshore.vault.whole_file import is_block_device

_BLKSSZGET = 0x1268
_USUAL = 512
_ATTACH = {
    ImageFormat.RAW: "Attach it with that size: losetup --sector-size {0}, or QEMU with logical_block_size={0}.",
    ImageFormat.QCOW2: "Attach it with that size: QEMU with logical_block_size={0},physical_block_size={0}.",
}


def difference(sector: int, path: Path, image: ImageFormat) -> str:
    """A sentence on how to use what was restored to ``path`` of a disk with such sectors (bytes); "" if there is
    nothing to know."""
    if is_block_device(path):
        there = device_sector(path)
        if there == sector:
            return ""
        return (
            f"The disk has sectors of {sector} bytes, {path} has sectors of {there}: its partitions are not found "
            "there. Restore it to a raw file, or to a device with such sectors."
        )
    if sector == _USUAL:
        return ""
    said = f"The disk has sectors of {sector} bytes. "
    if image in _ATTACH:
        return said + _ATTACH[image].format(sector)
    return (
        said + f"A {image.value} has sectors of {_USUAL}: a machine finds no partitions in it. Restore to raw or qcow2."
    )


def device_sector(path: Path) -> int:
    """The logical sectors of a block device, in bytes."""
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return int(struct.unpack("i", fcntl.ioctl(handle, _BLKSSZGET, bytes(4)))[0])
    finally:
        os.close(handle)
