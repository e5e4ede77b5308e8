"""The layer: the source of the last write of each block in a range of journal sequences.

Byte table: docs/formats/layer.md. A layer is an index, sorted by disk and block, in pages that are read when needed. It
refers to the sources that hold the bytes: segments, or data objects (blocks copied out of segments, sorted).
"""

from __future__ import annotations

import struct
import uuid
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from farshore.formats.batch import Buffer
from farshore.formats.container import PACK_ROW, PackRows
from farshore.model.errors import Damaged
from farshore.model.identifiers import Epoch, MachineId, Sequence

INDEX = struct.Struct("<16sIIQQIIII")
"""machine, epoch, reserved, first sequence, end sequence, sources, pages, zero ranges, packs."""
PAGE_ENTRIES = 4096
SOURCE: np.dtype[Any] = np.dtype(
    [("first", "<u8"), ("end", "<u8"), ("last_time", "<u8"), ("size", "<u8"), ("salt", "V16")]
)
"""A source object. A segment: its range, time and size, with the salt all zero. A data object: its salt, which names
it."""
PAGE: np.dtype[Any] = np.dtype(
    [("block", "<u8"), ("last", "<u8"), ("disk", "<u2"), ("reserved", "<u2"), ("entries", "<u4")]
)
"""First and last block of a page; pages are sorted by disk and block. Page i is pack i."""
ZERO_RANGE: np.dtype[Any] = np.dtype([("start", "<u8"), ("end", "<u8"), ("disk", "<u4"), ("reserved", "<u4")])
"""Blocks ``[start, end)`` that read as zeroes unless an entry overrides it; sorted and disjoint for each disk."""
ENTRY: np.dtype[Any] = np.dtype([("source", "<u4"), ("offset", "<u4"), ("mask", "u1")])
"""One write of one 4 KiB block: the row of its source, or ZERO_SOURCE; the offset in the source's payload of the first
sector in the mask; and the mask of the 512-byte sectors that it sets."""
ZERO_SOURCE = 0xFFFFFFFF

Table = npt.NDArray[Any]
Blocks = npt.NDArray[np.int64]


@dataclass(frozen=True)
class LayerIndex:
    """A layer's index, for the sequences ``[first, end)``. Arrays have the dtypes above."""

    machine: MachineId
    epoch: Epoch
    first: Sequence
    end: Sequence
    sources: Table
    pages: Table
    zeroes: Table
    packs: PackRows


def encode_index(index: LayerIndex) -> bytes:
    """Return the plaintext of a layer's index."""
    head = INDEX.pack(
        uuid.UUID(index.machine).bytes,
        index.epoch,
        0,
        index.first,
        index.end,
        len(index.sources),
        len(index.pages),
        len(index.zeroes),
        len(index.packs),
    )
    return b"".join(
        (head, index.sources.tobytes(), index.pages.tobytes(), index.zeroes.tobytes(), index.packs.tobytes())
    )


def decode_index(data: Buffer, name: str) -> LayerIndex:
    """Read an index that has been authenticated; arrays are views of ``data``. Raises Damaged."""
    view = memoryview(data)
    broken = Damaged(f"The index of {name} is inconsistent.", remedy="Run `farshore vault verify`.")
    if len(view) < INDEX.size:
        raise broken
    machine, epoch, _, first, end, sources, pages, zeroes, packs = INDEX.unpack_from(view)
    place = INDEX.size
    tables = []
    for kind, count in ((SOURCE, sources), (PAGE, pages), (ZERO_RANGE, zeroes), (PACK_ROW, packs)):
        if place + count * kind.itemsize > len(view):
            raise broken
        tables.append(np.frombuffer(view, kind, count, place))
        place += count * kind.itemsize
    if place != len(view) or pages != packs:
        raise broken
    return LayerIndex(MachineId(str(uuid.UUID(bytes=machine))), Epoch(epoch), first, end, *tables)


def encode_page(blocks: Blocks, entries: Table) -> bytes:
    """Return a page's plaintext, column by column: blocks relative to the first, sources, offsets, masks."""
    return b"".join(
        (
            (blocks - blocks[0]).astype("<u4").tobytes(),
            entries["source"].tobytes(),
            entries["offset"].tobytes(),
            entries["mask"].tobytes(),
        )
    )


PAGE_ROW_BYTES = 13


def decode_page(data: Buffer, first: int, count: int) -> tuple[Blocks, Table]:
    """Return the blocks and entries of a page with ``count`` entries that begins at block ``first``."""
    blocks = np.frombuffer(data, "<u4", count).astype(np.int64) + first
    entries = np.empty(count, ENTRY)
    entries["source"] = np.frombuffer(data, "<u4", count, 4 * count)
    entries["offset"] = np.frombuffer(data, "<u4", count, 8 * count)
    entries["mask"] = np.frombuffer(data, "u1", count, 12 * count)
    return blocks, entries
