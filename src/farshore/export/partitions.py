"""Where the partitions of a disk begin: GPT and MBR, read from a source."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from farshore.model.errors import Malformed
from farshore.model.ports import BlockSource

_GPT_HEADER = struct.Struct("<8s64xQII")
"""signature, …, first entry's sector, entries, bytes of an entry."""
_MOST_ENTRIES = 1024
_MBR_ENTRY = struct.Struct("<4xB3xII")
_PROTECTIVE = 0xEE


@dataclass(frozen=True)
class Partition:
    """``[start, end)`` in bytes. Numbers count from 1, as the kernel's do."""

    number: int
    start: int
    end: int


def partitions(source: BlockSource, sector: int = 512) -> list[Partition]:
    """The partitions in the order of their numbers; none where the disk has no table. Raises Malformed, Damaged.

    Logical partitions of an MBR are not followed.
    """
    if source.size < 2 * sector:
        return []
    boot = _read(source, 0, 512)
    if boot[510:512] != b"\x55\xaa":
        return []
    entries = [_MBR_ENTRY.unpack_from(boot, 446 + 16 * number) for number in range(4)]
    if not any(kind == _PROTECTIVE for kind, _, _ in entries):
        return [
            Partition(number, first * sector, (first + count) * sector)
            for number, (kind, first, count) in enumerate(entries, 1)
            if kind and count
        ]
    signature, first, count, size = _GPT_HEADER.unpack_from(_read(source, sector, 512))
    if signature != b"EFI PART" or count > _MOST_ENTRIES or not 128 <= size <= 4096:
        raise Malformed("The disk's partition table cannot be read.", remedy="Restore the whole disk instead.")
    table = _read(source, first * sector, count * size)
    found = []
    for number in range(count):
        kind = table[number * size : number * size + 16]
        begin, last = struct.unpack_from("<QQ", table, number * size + 32)
        if any(kind):
            found.append(Partition(number + 1, begin * sector, (last + 1) * sector))
    return found


def _read(source: BlockSource, offset: int, length: int) -> bytes:
    if offset + length > source.size:
        raise Malformed("The disk's partition table points beyond it.", remedy="Restore the whole disk instead.")
    data = bytearray(length)
    source.read_into(offset, memoryview(data))
    return bytes(data)
