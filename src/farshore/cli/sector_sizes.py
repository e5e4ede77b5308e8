"""Warnings about a restored disk whose sector size differs from that of the place that it was restored to.

Partition tables count in sectors: a disk with 4,096-byte sectors shows no partitions if it is read with 512.
"""

from __future__ import annotations

import fcntl
import os
import struct
from pathlib import Path

from farshore.export.image.convert import ImageFormat
from farshore.vault.reading.whole_file import is_block_device

_BLKSSZGET = 0x1268
_USUAL = 512
_ATTACH = {
    ImageFormat.RAW: "Attach it with that size: losetup --sector-size {0}, or QEMU with logical_block_size={0}.",
    ImageFormat.QCOW2: "Attach it with that sector size: QEMU with logical_block_size={0},physical_block_size={0}.",
}


def difference(sector: int, path: Path, image: ImageFormat) -> str:
    """Return advice on using a disk with sectors of ``sector`` bytes that was restored to ``path``; "" if none is
    needed."""
    if is_block_device(path):
        there = device_sector(path)
        if there == sector:
            return ""
        return (
            f"The disk has sectors of {sector} bytes and {path} has sectors of {there}, so its partitions "
            "cannot be found. Restore it to a raw file, or to a device with the same sector size."
        )
    if sector == _USUAL:
        return ""
    said = f"The disk has sectors of {sector} bytes. "
    if image in _ATTACH:
        return said + _ATTACH[image].format(sector)
    return (
        said + f"A {image.value} image has sectors of {_USUAL}, so a machine cannot find its partitions. "
        "Restore to raw or qcow2."
    )


def device_sector(path: Path) -> int:
    """Return the logical sector size of a block device, in bytes."""
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return int(struct.unpack("i", fcntl.ioctl(handle, _BLKSSZGET, bytes(4)))[0])
    finally:
        os.close(handle)
