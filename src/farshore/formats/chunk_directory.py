"""The chunk directory: the contents of thousands of chunk packs in one object, so that they need not be opened one by
one.

Byte table: docs/formats/chunk-directory.md.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from farshore.formats.batch import Buffer
from farshore.formats.container import PACK_LIMIT, PACK_ROW, PackRows
from farshore.model.errors import Damaged

INDEX = struct.Struct("<IIII")
"""domain, chunk packs, packs, reserved."""
COVERED: np.dtype[Any] = np.dtype([("salt", "V16"), ("chunks", "<u4")])
"""A chunk pack: its salt, and its number of chunks."""
ROW: np.dtype[Any] = np.dtype([("hash", "V16"), ("stored", "<u4"), ("ordinal", "<u4")])
"""A chunk, as in its chunk pack's index: the first 16 bytes of its hash, stored bytes, ordinal."""
PACK_BYTES = PACK_LIMIT // ROW.itemsize * ROW.itemsize
"""Raw bytes of every pack but the last."""

Covered = npt.NDArray[Any]
"""A one-dimensional array of dtype COVERED."""
Rows = npt.NDArray[Any]
"""A one-dimensional array of dtype ROW."""


@dataclass(frozen=True)
class DirectoryIndex:
    """``packs`` is the container's pack table; their plaintext is the rows of the covered packs, one after another."""

    domain: int
    covered: Covered
    packs: PackRows


def encode_index(index: DirectoryIndex) -> bytes:
    """Return the plaintext of a directory's index."""
    head = INDEX.pack(index.domain, len(index.covered), len(index.packs), 0)
    return head + index.covered.tobytes() + index.packs.tobytes()


def decode_index(data: Buffer, name: str) -> DirectoryIndex:
    """Read an index that has been authenticated. Raises Damaged."""
    view = memoryview(data)
    broken = Damaged(f"The index of {name} is inconsistent.", remedy="Run `farshore vault maintain`.")
    if len(view) < INDEX.size:
        raise broken
    domain, covered, packs, _ = INDEX.unpack_from(view)
    table = INDEX.size + covered * COVERED.itemsize
    if len(view) != table + packs * PACK_ROW.itemsize:
        raise broken
    found = DirectoryIndex(
        domain, np.frombuffer(view, COVERED, covered, INDEX.size), np.frombuffer(view, PACK_ROW, packs, table)
    )
    rows = int(found.covered["chunks"].sum(dtype=np.int64))
    if rows * ROW.itemsize != int(found.packs["raw"].sum(dtype=np.int64)) or (found.packs["raw"] > PACK_LIMIT).any():
        raise broken
    return found
