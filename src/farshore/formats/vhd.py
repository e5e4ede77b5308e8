"""The footer of a fixed VHD: the last 512 bytes of a disk that is uploaded to Azure.

Source: Microsoft's "Virtual Hard Disk Image Format Specification", 1.0. Byte layout: docs/formats/vhd.md. Numbers are
big-endian. Only the disk's own bytes precede the footer.
"""

from __future__ import annotations

import struct
from typing import Tuple
from uuid import UUID

FOOTER_BYTES = 512
ALIGNMENT = 1 << 20
"""Azure only accepts disks of whole MiB."""
_FIELDS = struct.Struct(">8sIIQI4sI4sQQHBBII16sB")
_FIXED = 2
_CREATOR = b"win "
"""Readers take the size of such a disk from its size field; for an unknown creator they take it from the geometry,
which cannot express every size."""
_CHECKSUM_AT = 64


def rounded(size: int) -> int:
    """Return the size in bytes of the VHD's disk for a disk of ``size`` bytes: rounded up to whole MiB."""
    return -(-size // ALIGNMENT) * ALIGNMENT


def footer(size: int, identity: UUID) -> bytes:
    """Return the footer of a disk of ``size`` bytes. The same arguments give the same footer: it holds no time of
    creation."""
    cylinders, heads, sectors = geometry(size)
    fields = _FIELDS.pack(
        b"conectix",
        2,  # reserved, always set
        0x00010000,
        0xFFFFFFFFFFFFFFFF,  # a fixed disk has no second header
        0,
        _CREATOR,
        0x000A0000,
        b"Wi2k",
        size,
        size,
        cylinders,
        heads,
        sectors,
        _FIXED,
        0,
        identity.bytes,
        0,
    ).ljust(FOOTER_BYTES, b"\0")
    checksum = ~sum(fields) & 0xFFFFFFFF
    return fields[:_CHECKSUM_AT] + struct.pack(">I", checksum) + fields[_CHECKSUM_AT + 4 :]


def geometry(size: int) -> Tuple[int, int, int]:
    """Return cylinders, heads and sectors per track, by the appendix of the specification."""
    total = min(size // 512, 65535 * 16 * 255)
    if total >= 65535 * 16 * 63:
        return total // 255 // 16, 16, 255
    sectors, tracks = 17, total // 17
    heads = max(4, (tracks + 1023) // 1024)
    if tracks >= heads * 1024 or heads > 16:
        sectors, heads, tracks = 31, 16, total // 31
    if tracks >= heads * 1024:
        sectors, heads, tracks = 63, 16, total // 63
    return tracks // heads, heads, sectors
