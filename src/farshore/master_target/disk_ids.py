"""Read the ids of a disk: those of its partition table, or of its content if it has none. Pure.

The ids distinguish an original disk from one of another machine. Clones of one image have the same ids: nothing on a
disk shows which of two clones it was.
"""

from __future__ import annotations

import re
import struct
import uuid

_SECTOR = 512
_NOT_SHOWN = re.compile(rb"[^\x21-\x7e]")
"""The disk's writer chose these bytes, and an error shows them on a terminal."""


def disk_ids(head: bytes | bytearray) -> list[str]:
    """Return the ids in the first 128 KiB of a disk, sorted; empty for one without any."""
    head = bytes(head)
    found = [*_partition_table(head), *_volumes(head), *_file_systems(head)]
    return sorted(set(found))


def _partition_table(head: bytes) -> list[str]:
    for sector in (_SECTOR, 4096):
        if head[sector : sector + 8] == b"EFI PART":
            return [f"GPT disk {uuid.UUID(bytes_le=head[sector + 56 : sector + 72])}"]
    if head[510:512] == b"\x55\xaa":
        (signature,) = struct.unpack_from("<I", head, 440)
        return [f"MBR disk {signature:08x}"] if signature else []
    return []


def _volumes(head: bytes) -> list[str]:
    found = []
    for sector in range(4):
        label = head[sector * _SECTOR : (sector + 1) * _SECTOR]
        if label[:8] == b"LABELONE":
            found.append(f"LVM volume {_shown(label[32:64])}")
    if head[:6] == b"LUKS\xba\xbe":
        found.append(f"LUKS volume {_shown(head[168:208].rstrip(bytes(1)))}")
    if head[4096:4100] == b"\xfc\x4e\x2b\xa9":
        found.append(f"md array {head[4112:4128].hex()}")
    return found


def _shown(text: bytes) -> str:
    return _NOT_SHOWN.sub(b"?", text).decode("ascii")


def _file_systems(head: bytes) -> list[str]:
    found = []
    if head[1080:1082] == b"\x53\xef":
        found.append(f"ext file system {uuid.UUID(bytes=head[1128:1144])}")
    if head[:4] == b"XFSB":
        found.append(f"XFS file system {uuid.UUID(bytes=head[32:48])}")
    if head[0x10040:0x10048] == b"_BHRfS_M":
        found.append(f"btrfs file system {uuid.UUID(bytes=head[0x10020:0x10030])}")
    if head[4086:4096] == b"SWAPSPACE2":
        found.append(f"swap area {uuid.UUID(bytes=head[1036:1052])}")
    return found
