"""The chunk pack: content-addressed chunks, about 8 MiB of them in one object; each chunk is one pack.

Byte table: docs/formats/chunk-pack.md.
"""

from __future__ import annotations

import struct
from typing import Any, Tuple

import numpy as np
import numpy.typing as npt

from farshore.formats.batch import Buffer
from farshore.formats.chunk_exchange import HASH_BYTES
from farshore.formats.container import PACK_ROW, PackRows
from farshore.model.errors import Damaged

INDEX = struct.Struct("<II")
"""chunks, packs (equal)."""
LOCATOR: np.dtype[Any] = np.dtype([("salt", "V16"), ("ordinal", "<u4"), ("offset", "<u4"), ("stored", "<u4")])
"""The location of a chunk: the pack object's salt, which names it, the pack's ordinal, and its bytes in the object."""

Locators = npt.NDArray[Any]
"""A one-dimensional array of dtype LOCATOR."""
Hashes = npt.NDArray[np.uint8]
"""Shape (n, 32)."""


def encode_index(hashes: Hashes, packs: PackRows) -> bytes:
    """Return the plaintext of a chunk pack's index."""
    return INDEX.pack(len(hashes), len(packs)) + hashes.tobytes() + packs.tobytes()


def decode_index(data: Buffer, name: str) -> Tuple[Hashes, PackRows]:
    """Read an index that has been authenticated. Raises Damaged."""
    view = memoryview(data)
    chunks, packs = INDEX.unpack_from(view) if len(view) >= INDEX.size else (0, 1)
    table = INDEX.size + chunks * HASH_BYTES
    if chunks != packs or len(view) != table + packs * PACK_ROW.itemsize:
        raise Damaged(f"The index of {name} is inconsistent.", remedy="Run `farshore vault verify`.")
    hashes = np.frombuffer(view, np.uint8, chunks * HASH_BYTES, INDEX.size).reshape(chunks, HASH_BYTES)
    return hashes, np.frombuffer(view, PACK_ROW, packs, table)
