"""Compress and encrypt packs and indexes; the reverse. The only use of AES-GCM on vault objects.

Each object has its own keys, derived from a longer-lived key and the object's random salt: one for packs, whose
nonce is the pack's ordinal, one for the index, whose nonce is random. An ordinal is given out once per salt and
process; a writer that continues after a crash takes a new salt. The index is bound to the object's name, so two
objects cannot be exchanged; the packs' lengths and ordinals stand in the index.
"""

from __future__ import annotations

import os
import struct
import threading
from typing import Sequence

import numpy as np
import zstandard
from blake3 import blake3
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from farshore.formats.batch import Buffer
from farshore.formats.container import PACK_ROW, TAG_BYTES, Header, Kind, PackRows, Trailer
from farshore.model.errors import Damaged, WrongKey

PACK_LEVEL = 1
_NONCE = struct.Struct("<IQ")
_PACK_DOMAIN = 1
_IN_PLACE = hasattr(AESGCM, "decrypt_into")
"""Older releases of cryptography lack it."""
_threads = threading.local()


class SealingKey:
    """A 32-byte key that objects are sealed under. ``id`` names it without telling anything about it. ``older``: the
    key under which such objects were sealed before; it opens them still."""

    def __init__(self, secret: bytes, older: SealingKey | None = None) -> None:
        if len(secret) != 32:
            raise WrongKey("A key has 32 bytes.", remedy="Check the key file.")
        self.secret = secret
        self.older = older
        self.id: bytes = blake3(secret, derive_key_context="farshore vault 1 key id").digest(16)

    def packs(self, salt: bytes) -> AESGCM:
        """Return the cipher of the packs of the object with that salt."""
        return AESGCM(blake3(self.secret + salt, derive_key_context="farshore vault 1 packs").digest(32))

    def index(self, salt: bytes) -> AESGCM:
        """Return the cipher of the index of the object with that salt."""
        return AESGCM(blake3(self.secret + salt, derive_key_context="farshore vault 1 index").digest(32))

    def derive(self, purpose: str) -> bytes:
        """Return 32 bytes for another purpose."""
        return bytes(blake3(self.secret, derive_key_context=f"farshore vault 1 {purpose}").digest(32))


class Sealer:
    """Seals the packs and the index of one object. Safe to use from several threads."""

    def __init__(self, key: SealingKey, kind: Kind, level: int = PACK_LEVEL) -> None:
        self.key = key
        self.header = Header(kind, os.urandom(16), key.id)
        self._cipher = key.packs(self.header.salt)
        self._level = level
        self._next = 0
        self._lock = threading.Lock()

    def reserve(self, count: int) -> int:
        """Return the first of ``count`` ordinals that nobody else gets."""
        with self._lock:
            first = self._next
            self._next += count
        return first

    def pack(self, data: Buffer, ordinal: int) -> bytes:
        """Seal one pack under a reserved ordinal. The result is raw + 16 bytes long only where it is not compressed."""
        return self._cipher.encrypt(_NONCE.pack(_PACK_DOMAIN, ordinal), squeeze(data, self._level), None)

    def prepare(self, data: Buffer) -> tuple[Buffer, int]:
        """Return the compressed form of a pack, and the stored length it will have."""
        squeezed = squeeze(data, self._level)
        return squeezed, len(squeezed) + TAG_BYTES

    def prepared(self, squeezed: Buffer, ordinal: int, context: bytes | None) -> bytes:
        """Seal what `prepare` gave, bound to ``context`` too."""
        return self._cipher.encrypt(_NONCE.pack(_PACK_DOMAIN, ordinal), squeezed, context)

    def packs(self, data: Buffer, limit: int) -> tuple[PackRows, list[Buffer]]:
        """Cut ``data`` into packs of ``limit`` raw bytes and seal them."""
        view = memoryview(data).cast("B")
        count = -(-len(view) // limit)
        first = self.reserve(count)
        rows = np.zeros(count, PACK_ROW)
        sealed: list[Buffer] = []
        for number in range(count):
            piece = view[number * limit : (number + 1) * limit]
            sealed.append(self.pack(piece, first + number))
            rows[number] = (len(piece), len(sealed[-1]), first + number)
        return rows, sealed

    def finish(self, name: str, index: bytes, rows: PackRows) -> list[Buffer]:
        """Return what follows the packs: sealed index and trailer."""
        return seal_index(self.key, self.header, name, index, rows)


def seal_index(key: SealingKey, header: Header, name: str, index: bytes, rows: PackRows) -> list[Buffer]:
    """Return the sealed index and the trailer of an object whose packs ``rows`` lists."""
    nonce = os.urandom(12)
    squeezed = squeeze(index, 3)
    offset = len(header.encode()) + int(rows["stored"].sum(dtype=np.int64))
    trailer = Trailer(header, offset, len(squeezed) + TAG_BYTES, len(index), len(rows), nonce)
    return [key.index(header.salt).encrypt(nonce, squeezed, trailer.context(name)), trailer.encode()]


def open_index(key: SealingKey, trailer: Trailer, sealed: Buffer, name: str) -> bytes:
    """Return the index's plaintext. Raises WrongKey if another key sealed it, Damaged if it was altered or moved."""
    if key.older is not None and trailer.header.key_id == key.older.id:
        key = key.older
    if trailer.header.key_id != key.id:
        raise WrongKey(f"{name} was sealed with another key.", remedy="Use the key file of this vault.")
    cipher = key.index(trailer.header.salt)
    try:
        squeezed = cipher.decrypt(trailer.nonce, sealed, trailer.context(name))
        return bytes(expand(squeezed, trailer.index_raw))
    except (InvalidTag, ValueError, zstandard.ZstdError) as cause:
        raise Damaged(
            f"The index of {name} was altered, or the object was moved here from another name.",
            remedy="Run `farshore vault verify` to see which points it affects.",
        ) from cause


class PackOpener:
    """Opens packs of one object."""

    def __init__(self, key: SealingKey, salt: bytes, name: str) -> None:
        self._cipher = key.packs(salt)
        self._name = name

    def open(self, sealed: Buffer, ordinal: int, raw: int, context: bytes | None = None) -> Buffer:
        """Return a pack's ``raw`` bytes. Raises Damaged."""
        try:
            return expand(self._cipher.decrypt(_NONCE.pack(_PACK_DOMAIN, ordinal), sealed, context), raw)
        except (InvalidTag, ValueError, zstandard.ZstdError) as cause:
            raise self._altered(ordinal) from cause

    def open_into(self, sealed: Buffer, ordinal: int, target: memoryview) -> None:
        """Fill ``target``, which is as long as the pack, without a copy where the pack is not compressed. Raises
        Damaged."""
        try:
            if _IN_PLACE and len(sealed) == len(target) + TAG_BYTES:
                self._cipher.decrypt_into(_NONCE.pack(_PACK_DOMAIN, ordinal), sealed, None, target)
            else:
                target[:] = expand(self._cipher.decrypt(_NONCE.pack(_PACK_DOMAIN, ordinal), sealed, None), len(target))
        except (InvalidTag, ValueError, zstandard.ZstdError) as cause:
            raise self._altered(ordinal) from cause

    def _altered(self, ordinal: int) -> Damaged:
        return Damaged(
            f"Pack {ordinal} of {self._name} was altered.",
            remedy="Run `farshore vault verify --data` to see which points it affects.",
        )


def squeeze(data: Buffer, level: int = PACK_LEVEL) -> Buffer:
    """Return ``data`` compressed if that is shorter, else unchanged."""
    compressors: dict[int, zstandard.ZstdCompressor] | None = getattr(_threads, "compressors", None)
    if compressors is None:
        compressors = _threads.compressors = {}
    compressor = compressors.get(level)
    if compressor is None:
        compressor = compressors[level] = zstandard.ZstdCompressor(
            level=level, write_content_size=False, write_checksum=False, write_dict_id=False
        )
    squeezed = compressor.compress(data)
    return squeezed if len(squeezed) < len(data) else data


def expand(data: Buffer, raw: int) -> Buffer:
    """Return the reverse of squeeze. Raises ValueError or ZstdError if the result is not ``raw`` bytes long."""
    if len(data) == raw:
        return data
    decompressor: zstandard.ZstdDecompressor | None = getattr(_threads, "decompressor", None)
    if decompressor is None:
        decompressor = _threads.decompressor = zstandard.ZstdDecompressor()
    # The frame names no size; one byte more than expected would show a frame that is too long.
    found = decompressor.decompress(data, max_output_size=raw)
    if len(found) != raw:
        raise ValueError(f"{len(found)} bytes where {raw} were expected")
    return found


def concatenated(header: Header, packs: Sequence[Buffer], end: Sequence[Buffer]) -> list[Buffer]:
    """Return the buffers of a whole object."""
    return [header.encode(), *packs, *end]
