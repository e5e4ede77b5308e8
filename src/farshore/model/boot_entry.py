"""Boot entries of UEFI firmware, as its variables Boot0000 … contain them: EFI_LOAD_OPTION (UEFI 2.10, 3.1.3). Pure.

A guest that was installed without the fallback boot file starts only by its entry. If the entry names a file on a
partition by the partition's own id, it is valid at any site: the firmware looks for that partition on every disk.
"""

from __future__ import annotations

import struct

_HEADER = struct.Struct("<IH")
"""Attributes, bytes of the device path."""
_NODE = struct.Struct("<BBH")
"""Type, subtype, bytes of the node with this header."""
_ACTIVE = 1
_MEDIA, _HARD_DRIVE = 4, 1
_GPT_SIGNATURE = 2
_HARD_DRIVE_NODE = 42
MOST_ENTRIES, MOST_BYTES = 8, 4096
"""Maximum number of entries that are kept of a machine."""


def leads_to_partition(entry: bytes) -> bool:
    """Return whether the entry is active, complete, and begins with a partition that is identified by its GPT id."""
    if not _HEADER.size < len(entry) <= MOST_BYTES:
        return False
    attributes, path_bytes = _HEADER.unpack_from(entry)
    start = _end_of_text(entry, _HEADER.size)
    if not attributes & _ACTIVE or start is None or start + path_bytes > len(entry) or path_bytes < _HARD_DRIVE_NODE:
        return False
    kind, subtype, length = _NODE.unpack_from(entry, start)
    by_id = entry[start + _HARD_DRIVE_NODE - 1] == _GPT_SIGNATURE
    return (kind, subtype, length) == (_MEDIA, _HARD_DRIVE, _HARD_DRIVE_NODE) and by_id


def _end_of_text(entry: bytes, start: int) -> int | None:
    """Return the end of the UTF-16 text that begins at ``start``; None if it has no end."""
    for at in range(start, len(entry) - 1, 2):
        if entry[at : at + 2] == b"\0\0":
            return at + 2
    return None
