"""The base map: the location and the hash of each 64 KiB chunk of one disk's base copy.

Byte table: docs/formats/base-map.md. The map is paged: packs 2i and 2i+1 are the locators and the hashes of page i.
Opening a large disk therefore reads only the index, and reading a block only its page.
"""

from __future__ import annotations

import struct
import uuid
from dataclasses import dataclass
from typing import Any, Tuple

import numpy as np
import numpy.typing as npt

from farshore.formats.batch import Buffer
from farshore.formats.container import PACK_ROW, PackRows
from farshore.model.errors import Damaged
from farshore.model.identifiers import CHUNK, DiskNumber, Epoch, MachineId

INDEX = struct.Struct("<16sIHHQIIII")
"""machine, epoch, disk, reserved, disk size, chunks per page, number of chunk packs, packs, deduplication domain."""
PAGE_CHUNKS = 2048
ENTRY: np.dtype[Any] = np.dtype([("pack", "<u4"), ("ordinal", "<u4"), ("offset", "<u4"), ("stored", "<u4")])
"""``pack`` is an index into the map's table of salts, or ZERO or INHERIT."""
ZERO = 0xFFFFFFFF
"""The chunk reads as zeroes."""
INHERIT = 0xFFFFFFFE
"""The chunk is the same as at the epoch's parent position."""

Entries = npt.NDArray[Any]
"""A one-dimensional array of dtype ENTRY."""


@dataclass(frozen=True)
class BaseMapIndex:
    """``salts`` has shape (n, 16): the chunk packs that entries refer to. ``size`` is the disk's size in bytes."""

    machine: MachineId
    epoch: Epoch
    disk: DiskNumber
    size: int
    page_chunks: int
    salts: npt.NDArray[np.uint8]
    packs: PackRows
    domain: int = 0
    """The deduplication domain of the chunk packs; 0 is the installation's, the only one in older releases."""


def chunk_count(size: int) -> int:
    """Return the number of chunks of a disk of ``size`` bytes; the last chunk may be shorter."""
    return -(-size // CHUNK)


def encode_index(index: BaseMapIndex) -> bytes:
    """Return the plaintext of a base map's index."""
    head = INDEX.pack(
        uuid.UUID(index.machine).bytes,
        index.epoch,
        index.disk,
        0,
        index.size,
        index.page_chunks,
        len(index.salts),
        len(index.packs),
        index.domain,
    )
    return head + index.salts.tobytes() + index.packs.tobytes()


def decode_index(data: Buffer, name: str) -> BaseMapIndex:
    """Read an index that has been authenticated. Raises Damaged."""
    view = memoryview(data)
    broken = Damaged(f"The index of {name} is inconsistent.", remedy="Run `farshore vault verify`.")
    if len(view) < INDEX.size:
        raise broken
    machine, epoch, disk, _, size, page_chunks, salts, packs, domain = INDEX.unpack_from(view)
    table = INDEX.size + salts * 16
    if len(view) != table + packs * PACK_ROW.itemsize or not page_chunks:
        raise broken
    if packs != 2 * -(-chunk_count(size) // page_chunks):
        raise broken
    return BaseMapIndex(
        MachineId(str(uuid.UUID(bytes=machine))),
        Epoch(epoch),
        DiskNumber(disk),
        size,
        page_chunks,
        np.frombuffer(view, np.uint8, salts * 16, INDEX.size).reshape(salts, 16),
        np.frombuffer(view, PACK_ROW, packs, table),
        domain,
    )


def page_range(page: int, page_chunks: int, size: int) -> Tuple[int, int]:
    """Return the first chunk of a page, and the chunk after its last."""
    return page * page_chunks, min((page + 1) * page_chunks, chunk_count(size))
