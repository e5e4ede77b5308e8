"""The container: the common outer layout of every sealed object in a vault.

Byte table: docs/formats/container.md. A container is a header, packs, a sealed index and a trailer. Each pack is
compressed and encrypted separately, so that one can be read without the others. The trailer repeats the header, so a
reader needs only the end of an object to know its layout. This module knows only the layout;
farshore.vault.objects.sealing encrypts and decrypts.
"""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from farshore.formats.batch import Buffer
from farshore.model.errors import Damaged, Unsupported

MAGIC = b"FARVAULT"
END_MAGIC = b"FARVLEND"
VERSION = 1
HEADER = struct.Struct("<8sHHI16s16s16x")
"""magic, version, kind, reserved, salt, key id."""
HEADER_BYTES = HEADER.size  # 64
TRAILER = struct.Struct("<64sQIII12s20x4x8s")
"""A copy of the header, index offset, index bytes stored, index bytes raw, packs, index nonce, magic."""
TRAILER_BYTES = TRAILER.size  # 128
PACK_ROW: np.dtype[Any] = np.dtype([("raw", "<u4"), ("stored", "<u4"), ("ordinal", "<u4")])
TAG_BYTES = 16
PACK_LIMIT = 65536
"""The most raw bytes in a pack."""

PackRows = npt.NDArray[Any]
"""A one-dimensional array of dtype PACK_ROW."""


class Kind(enum.IntEnum):
    """The type of an object; its index has that type's layout."""

    DOCUMENT = 1
    SEGMENT = 2
    CHUNK_PACK = 3
    BASE_MAP = 4
    LAYER = 5
    LAYER_DATA = 6
    CHUNK_DIRECTORY = 7


@dataclass(frozen=True)
class Header:
    """``salt`` is the input for the object's own keys; ``key_id`` names the key that they are derived from. 16 bytes
    each."""

    kind: Kind
    salt: bytes
    key_id: bytes

    def encode(self) -> bytes:
        """Return the header's 64 bytes."""
        return HEADER.pack(MAGIC, VERSION, self.kind, 0, self.salt, self.key_id)

    @classmethod
    def decode(cls, data: Buffer, name: str) -> Header:
        """Read a header. ``name`` is used in errors. Raises Damaged, Unsupported."""
        magic, version, kind, _, salt, key_id = HEADER.unpack_from(data)
        if magic != MAGIC:
            raise Damaged(f"{name} is not a sealed object.", remedy="Run `farshore vault verify`.")
        if version != VERSION or kind not in Kind.__members__.values():
            raise Unsupported(
                f"{name} has version {version} and kind {kind}, which this release does not know.",
                remedy="Use a newer release of Farshore.",
            )
        return cls(Kind(kind), salt, key_id)


@dataclass(frozen=True)
class Trailer:
    """The location of the index. ``index_stored`` includes the tag; the index is compressed unless ``index_stored`` is
    raw + 16."""

    header: Header
    index_offset: int
    index_stored: int
    index_raw: int
    packs: int
    nonce: bytes

    def encode(self) -> bytes:
        """Return the trailer's 128 bytes."""
        return TRAILER.pack(
            self.header.encode(),
            self.index_offset,
            self.index_stored,
            self.index_raw,
            self.packs,
            self.nonce,
            END_MAGIC,
        )

    def context(self, name: str) -> bytes:
        """Return what the index is authenticated with besides its key: header, lengths and the object's name."""
        lengths = struct.pack("<QIII", self.index_offset, self.index_stored, self.index_raw, self.packs)
        return self.header.encode() + lengths + name.encode()

    @classmethod
    def decode(cls, data: Buffer, size: int, name: str) -> Trailer:
        """Read the trailer, the last bytes of ``data``; ``size`` is the whole object's. Raises Damaged, Unsupported."""
        view = memoryview(data)
        if size < HEADER_BYTES + TAG_BYTES + TRAILER_BYTES or len(view) < TRAILER_BYTES:
            raise cut_short(name)
        header, offset, stored, raw, packs, nonce, magic = TRAILER.unpack_from(view, len(view) - TRAILER_BYTES)
        if magic != END_MAGIC or offset + stored + TRAILER_BYTES != size or packs * PACK_ROW.itemsize > raw:
            raise cut_short(name)
        return cls(Header.decode(header, name), offset, stored, raw, packs, nonce)


def cut_short(name: str) -> Damaged:
    """Return the error for an object whose end is missing."""
    return Damaged(
        f"{name} is truncated, or its end was altered.",
        remedy="Run `farshore vault verify` to see which points are affected. A resync repairs what the "
        "source still has.",
    )


def pack_offsets(rows: PackRows) -> npt.NDArray[np.int64]:
    """Return each pack's byte offset in the object, and as last entry the end of the packs."""
    offsets = np.full(len(rows) + 1, HEADER_BYTES, np.int64)
    np.cumsum(rows["stored"], out=offsets[1:])
    offsets[1:] += HEADER_BYTES
    return offsets


def raw_offsets(rows: PackRows) -> npt.NDArray[np.int64]:
    """Return the offset of each pack's first byte in the concatenated plaintexts of all packs, and as last entry the
    total length."""
    offsets = np.zeros(len(rows) + 1, np.int64)
    np.cumsum(rows["raw"], out=offsets[1:])
    return offsets
