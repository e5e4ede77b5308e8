"""Bodies of the base-copy requests: hashes to compare, and the chunks that the other side lacks.

Byte table: docs/formats/chunk-exchange.md. A chunk is 64 KiB at a 64 KiB boundary; a disk's last chunk may be shorter.
Hashes are keyed BLAKE3 (32 bytes) under a chunk hash key. An all-zero chunk has the all-zero hash, is always known and
never sent.
"""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass
from typing import Any, List, Tuple

import numpy as np
import numpy.typing as npt

from farshore.formats.batch import Buffer
from farshore.model.errors import Malformed
from farshore.model.identifiers import CHUNK, DiskNumber

HASH_BYTES = 32
COMPARE_MAGIC = b"FARCMPR1"
CHUNKS_MAGIC = b"FARCHNK1"
COMPARE_HEADER = struct.Struct("<8sHHIQ")
"""magic, disk, reserved, count, first chunk; then count × 32 bytes of hashes."""
_MOST_CHUNKS = (1 << 63) // CHUNK
CHUNKS_HEADER = struct.Struct("<8sHHI")
"""magic, disk, reserved, count; then count rows of CHUNK_ROW, then the chunks' bytes in row order."""
CHUNK_ROW: np.dtype[Any] = np.dtype([("chunk", "<u8"), ("length", "<u4"), ("reserved", "<u4"), ("hash", "V32")])


class Verdict(enum.IntEnum):
    """The answer for one compared chunk; the response to a comparison is ``count`` of these bytes."""

    HAVE = 0
    """The copy already has the same chunk: nothing to send."""
    SEND = 1
    FOUND = 2
    """The vault already had the chunk, and the copy now refers to it: nothing to send."""


@dataclass(frozen=True)
class Comparison:
    """Hashes of ``count`` consecutive chunks of one disk, shape (count, 32) uint8."""

    disk: DiskNumber
    first_chunk: int
    hashes: npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Chunks:
    """Chunks of one disk. ``rows`` has dtype CHUNK_ROW; ``payload`` their bytes in the same order."""

    disk: DiskNumber
    rows: npt.NDArray[Any]
    payload: Buffer


def encode_comparison(comparison: Comparison) -> List[Buffer]:
    """Return the body of a compare request."""
    header = COMPARE_HEADER.pack(COMPARE_MAGIC, comparison.disk, 0, len(comparison.hashes), comparison.first_chunk)
    return [header, np.ascontiguousarray(comparison.hashes).data.cast("B")]


def decode_comparison(data: Buffer) -> Comparison:
    """Read a compare request's body. Raises Malformed."""
    view = memoryview(data)
    (disk, count, first), body = _open(view, COMPARE_HEADER, COMPARE_MAGIC)
    if len(body) != count * HASH_BYTES:
        raise Malformed("A chunk comparison is truncated.", remedy="Send it again.")
    if first + count > _MOST_CHUNKS:
        raise Malformed("A chunk lies beyond the end of its disk.", remedy="Open a new epoch: the disk has changed.")
    return Comparison(DiskNumber(disk), first, np.frombuffer(body, np.uint8).reshape(count, HASH_BYTES))


def encode_chunks(chunks: Chunks) -> List[Buffer]:
    """Return the body of a chunk upload."""
    header = CHUNKS_HEADER.pack(CHUNKS_MAGIC, chunks.disk, 0, len(chunks.rows))
    return [header, np.ascontiguousarray(chunks.rows).data.cast("B"), chunks.payload]


def decode_chunks(data: Buffer) -> Chunks:
    """Read a chunk upload's body. Raises Malformed."""
    view = memoryview(data)
    (disk, count), body = _open(view, CHUNKS_HEADER, CHUNKS_MAGIC)
    table = count * CHUNK_ROW.itemsize
    if len(body) < table:
        raise Malformed("A chunk upload is truncated.", remedy="Send it again.")
    rows = np.frombuffer(body, CHUNK_ROW, count)
    if (rows["chunk"] >= _MOST_CHUNKS).any():
        raise Malformed("A chunk lies beyond the end of its disk.", remedy="Open a new epoch: the disk has changed.")
    if int(rows["length"].sum()) != len(body) - table or (rows["length"] > CHUNK).any():
        raise Malformed("The lengths of the chunks do not match the upload.", remedy="Send it again.")
    return Chunks(DiskNumber(disk), rows, body[table:])


def _open(view: memoryview, header: struct.Struct, magic: bytes) -> Tuple[Tuple[int, ...], memoryview]:
    if len(view) < header.size or bytes(view[:8]) != magic:
        raise Malformed("The body does not have the header of its format.", remedy="Upgrade the older side.")
    _, disk, _, *rest = header.unpack_from(view)
    return (disk, *rest), view[header.size :]
