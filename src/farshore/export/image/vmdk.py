"""Set the one value of a stream-optimised VMDK that qemu-img cannot set: the file's name, in the text inside.

The layout is of VMware's "Virtual Disk Format 1.1": a header of one sector with the position and length of the
descriptor in sectors, little-endian, and the descriptor, a text that ends with zeroes.
"""

from __future__ import annotations

import os
import re
import struct
from pathlib import Path

from farshore.model.errors import Unsupported

GRAIN = 64 << 10
"""Unit of compression in bytes. The capacity is a multiple of it."""
_SECTOR = 512
_MAGIC = b"KDMV"
_PLACE = struct.Struct("<QQ")
_PLACE_AT = 28
_EXTENT = re.compile(rb'^(R[WD]\w* \d+ SPARSE )".*"$', re.MULTILINE)


def rename_extent(image: Path, name: str) -> None:
    """Make the descriptor name the file ``name``, because it was written under another name. Raises Unsupported if the
    image has another layout, or no space for the name."""
    with image.open("r+b") as file:
        header = file.read(_SECTOR)
        first, sectors = _PLACE.unpack_from(header, _PLACE_AT)
        if header[:4] != _MAGIC or not first or not sectors:
            raise _odd("it has no descriptor inside")
        file.seek(first * _SECTOR)
        text = file.read(sectors * _SECTOR).rstrip(b"\0")
        renamed, count = _EXTENT.subn(lambda found: found[1] + b'"' + os.fsencode(name) + b'"', text)
        if count != 1 or len(renamed) > sectors * _SECTOR:
            raise _odd("its descriptor names no extent, or has no room for the name")
        file.seek(first * _SECTOR)
        file.write(renamed.ljust(sectors * _SECTOR, b"\0"))


def _odd(reason: str) -> Unsupported:
    return Unsupported(f"qemu-img wrote an unexpected VMDK: {reason}.", remedy="Choose another format.")
