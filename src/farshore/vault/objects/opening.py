"""Reading sealed objects from a store: the tail first, then packs; and small ones as a whole.

An object's size comes from a listing where there is one, so that its index costs one range read.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Sequence

import numpy as np
import numpy.typing as npt

from farshore.formats.batch import Buffer
from farshore.formats.container import (
    HEADER_BYTES,
    PACK_ROW,
    TRAILER_BYTES,
    Header,
    Kind,
    PackRows,
    Trailer,
    cut_short,
    pack_offsets,
    raw_offsets,
)
from farshore.model.errors import Damaged
from farshore.vault.objects.sealing import PackOpener, Sealer, SealingKey, concatenated, open_index
from farshore.vault.stores.port import Store

TAIL_GUESS = 128 << 10


@dataclass(frozen=True)
class SealedObject:
    """An object ready to be stored: the concatenation of ``buffers`` under ``name``."""

    name: str
    buffers: list[Buffer]

    @property
    def size(self) -> int:
        """Size in bytes."""
        return sum(len(buffer) for buffer in self.buffers)


class OpenedObject:
    """An object whose index has been read and authenticated. ``index`` is its plaintext."""

    def __init__(self, store: Store, key: SealingKey, name: str, header: Header, index: bytes, packs: int) -> None:
        self.store = store
        self.name = name
        self.header = header
        self.index = index
        self.packs: PackRows = np.frombuffer(index, PACK_ROW, packs, len(index) - packs * PACK_ROW.itemsize)
        self.offsets: npt.NDArray[np.int64] = pack_offsets(self.packs)
        self.starts: npt.NDArray[np.int64] = raw_offsets(self.packs)
        self._opener = PackOpener(key, header.salt, name)

    def forget_index(self) -> None:
        """Keep only what reading packs needs."""
        self.packs = self.packs.copy()
        self.index = b""

    def open_pack(self, number: int, sealed: Buffer) -> Buffer:
        """Return the plaintext of pack ``number`` from its stored bytes. Raises Damaged."""
        row = self.packs[number]
        return self._opener.open(sealed, int(row["ordinal"]), int(row["raw"]))

    def read_pack(self, number: int) -> Buffer:
        """Fetch and open one pack. Raises Damaged, NotFound, Unreachable."""
        start, end = int(self.offsets[number]), int(self.offsets[number + 1])
        return self.open_pack(number, self.store.get_range(self.name, start, end - start))

    def read_packs(self, numbers: Sequence[int]) -> list[Buffer]:
        """Fetch and open several packs."""
        starts = [int(self.offsets[number]) for number in numbers]
        lengths = [int(self.offsets[number + 1]) - start for number, start in zip(numbers, starts, strict=True)]
        found = self.store.get_ranges(self.name, starts, lengths)
        return [self.open_pack(number, sealed) for number, sealed in zip(numbers, found, strict=True)]


def open_object(store: Store, key: SealingKey, name: str, size: int, kind: Kind) -> OpenedObject:
    """Read and authenticate the index of the object ``name`` of ``size`` bytes.

    Raises NotFound, Damaged (cut short, altered, moved, another kind), WrongKey, Unsupported.
    """
    if size < HEADER_BYTES + TRAILER_BYTES:
        raise cut_short(name)
    take = min(size, TAIL_GUESS)
    tail = memoryview(store.get_range(name, size - take, take))
    trailer = Trailer.decode(tail, size, name)
    need = trailer.index_stored + TRAILER_BYTES
    if need <= take:
        sealed = tail[take - need : take - TRAILER_BYTES]
    else:
        sealed = memoryview(store.get_range(name, trailer.index_offset, trailer.index_stored))
    return _opened(store, key, name, trailer, sealed, kind)


def _opened(store: Store, key: SealingKey, name: str, trailer: Trailer, sealed: Buffer, kind: Kind) -> OpenedObject:
    if trailer.header.kind != kind:
        raise Damaged(f"{name} is not a {kind.name.lower()}.", remedy="Run `farshore vault verify`.")
    index = open_index(key, trailer, sealed, name)
    return OpenedObject(store, key, name, trailer.header, index, trailer.packs)


def seal_document(key: SealingKey, name: str, fields: dict[str, Any]) -> SealedObject:
    """Return a small object whose index is a JSON document, without packs."""
    sealer = Sealer(key, Kind.DOCUMENT)
    text = json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()
    return SealedObject(name, concatenated(sealer.header, [], sealer.finish(name, text, np.zeros(0, PACK_ROW))))


def read_document(store: Store, key: SealingKey, name: str) -> dict[str, Any]:
    """Read a document. Raises NotFound, Damaged, WrongKey, Unsupported."""
    data = memoryview(store.get(name))
    trailer = Trailer.decode(data, len(data), name)
    sealed = data[trailer.index_offset : trailer.index_offset + trailer.index_stored]
    opened = _opened(store, key, name, trailer, sealed, Kind.DOCUMENT)
    try:
        fields = json.loads(opened.index)
    except (ValueError, RecursionError) as cause:
        raise Damaged(f"{name} is not a document.", remedy="Run `farshore vault verify`.") from cause
    if not isinstance(fields, dict):
        raise Damaged(f"{name} is not a document.", remedy="Run `farshore vault verify`.")
    return fields
