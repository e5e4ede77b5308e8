"""A run: many entries, sorted, in one immutable file. Byte table: docs/formats/chunk-run.md.

Entries lie in blocks of 4 KiB, each with a digest that is checked whenever it is read. The tail is what a reader keeps
in memory: the first hash of each block, a filter, the salts of the packs. So opening a run reads 2 % of it.

The filter is a Bloom filter of 64-bit words: the upper bits of a hash choose the word, so that words follow the order
of the entries, and lower bits choose PROBES of its bits. At WORD_KEYS entries a word some 2 % of strangers pass.
"""

from __future__ import annotations

import mmap
import struct
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
from blake3 import blake3

from farshore.formats.batch import Buffer
from farshore.vault.chunk_index.entries import ENTRY, Entries, Mask, Words
from farshore.vault.upkeep.salts import SALT_BYTES, Salts

MAGIC = b"FARCHRUN"
VERSION = 1
BLOCK_BYTES = 4096
BLOCK_HEAD = 32
BLOCK_ENTRIES = (BLOCK_BYTES - BLOCK_HEAD) // ENTRY.itemsize
_BLOCK = struct.Struct("<16sQI4x")
"""digest, number of the block, entries."""
FOOTER = struct.Struct("<8sI4x16s16sQQQQ32s16s")
"""magic, version, run, key id, entries, blocks, words, packs, digest of the tail, digest of the footer."""
RUN_BYTES = 16
WORD_KEYS = 6
PROBES = 4


class Untrusted(Exception):
    """A local file is not what was written; it is to be thrown away. Never leaves the package."""


class Footer(NamedTuple):
    """What lies where in a run. The tail begins behind the blocks."""

    run: bytes
    key_id: bytes
    entries: int
    blocks: int
    words: int
    packs: int
    tail_digest: bytes

    @property
    def tail_bytes(self) -> int:
        """Bytes between the blocks and the footer."""
        return 8 * self.blocks + 8 * self.words + SALT_BYTES * self.packs

    def encode(self) -> bytes:
        """Return the file's last bytes."""
        body = FOOTER.pack(MAGIC, VERSION, *self, bytes(16))[:-16]
        return body + blake3(body).digest(16)

    @classmethod
    def decode(cls, data: Buffer, size: int) -> Footer:
        """Read a footer of a file of ``size`` bytes. Raises Untrusted."""
        if len(data) != FOOTER.size or blake3(bytes(data)[:-16]).digest(16) != bytes(data)[-16:]:
            raise Untrusted("the footer does not add up")
        magic, version, *fields, _ = FOOTER.unpack(data)
        found = cls(*fields)
        if magic != MAGIC or version != VERSION:
            raise Untrusted("another version wrote it")
        if size != found.blocks * BLOCK_BYTES + found.tail_bytes + FOOTER.size:
            raise Untrusted("it was cut short")
        return found


class Tail(NamedTuple):
    """``fences``: the first ``high`` of each block."""

    fences: Words
    filter: Words
    salts: Salts


class Sink(Protocol):
    """Where a run is written to."""

    def write(self, data: Buffer, /) -> object:
        """Append."""
        ...


class RunWriter:
    """Writes a run. ``most``: at least as many entries as will be appended; sorted, no ``high`` twice."""

    def __init__(self, sink: Sink, run: bytes, key_id: bytes, most: int) -> None:
        self._sink, self._run, self._key_id = sink, run, key_id
        self._filter: Words = np.frombuffer(off_heap(8 * max(1, -(-most // WORD_KEYS))), np.uint64)
        self._fences: list[Words] = []
        self._left = np.zeros(0, ENTRY)
        self._blocks = self._entries = 0

    def append(self, entries: Entries) -> None:
        """Add entries that follow all before."""
        self._entries += len(entries)
        np.bitwise_or.at(self._filter, _word(entries["high"], len(self._filter)), _bits(entries["low"]))
        entries = np.concatenate([self._left, entries])
        whole = len(entries) // BLOCK_ENTRIES * BLOCK_ENTRIES
        self._put(entries[:whole])
        self._left = entries[whole:].copy()

    def finish(self, salts: Salts) -> tuple[Footer, Tail]:
        """Write the rest and the tail; return what a reader would find."""
        self._put(self._left)
        fences = np.concatenate([np.zeros(0, np.uint64), *self._fences])
        parts = (fences.view(np.uint8), self._filter.view(np.uint8), np.ascontiguousarray(salts).reshape(-1))
        digest = blake3()
        for part in parts:
            digest.update(part.data)
            self._sink.write(part.data)
        footer = Footer(
            self._run, self._key_id, self._entries, self._blocks, len(self._filter), len(salts), digest.digest()
        )
        self._sink.write(footer.encode())
        return footer, Tail(fences, self._filter, salts)

    def _put(self, entries: Entries) -> None:
        data = entries.tobytes()
        step = BLOCK_ENTRIES * ENTRY.itemsize
        blocks: list[bytes] = []
        for start in range(0, len(data), step):
            piece = data[start : start + step]
            head = _BLOCK.pack(bytes(16), self._blocks, len(piece) // ENTRY.itemsize)[16:]
            body = (head + piece).ljust(BLOCK_BYTES - 16, b"\0")
            blocks += (_digest(self._run, body), body)
            self._blocks += 1
        self._fences.append(entries["high"][::BLOCK_ENTRIES].copy())
        self._sink.write(b"".join(blocks))


def off_heap(size: int) -> mmap.mmap:
    """Zeroes that go back to the system when they are no longer used: a heap keeps what it once had, and after a merge
    that would be a filter as large as all others."""
    return mmap.mmap(-1, max(1, size), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)


def decode_tail(footer: Footer, data: Buffer) -> Tail:
    """Read a run's tail. Raises Untrusted."""
    if blake3(data).digest() != footer.tail_digest:
        raise Untrusted("its tail does not add up")
    fences = np.frombuffer(data, "<u8", footer.blocks)
    words = np.frombuffer(data, "<u8", footer.words, 8 * footer.blocks)
    salts = np.frombuffer(data, np.uint8, SALT_BYTES * footer.packs, 8 * (footer.blocks + footer.words))
    return Tail(fences, words, salts.reshape(-1, SALT_BYTES))


def decode_block(run: bytes, number: int, data: Buffer) -> memoryview:
    """Return the entries of a block, as bytes. Raises Untrusted."""
    view = memoryview(data)
    digest, found, count = _BLOCK.unpack_from(view)
    if digest != _digest(run, view[16:]) or found != number:
        raise Untrusted(f"block {number} does not add up")
    return view[BLOCK_HEAD : BLOCK_HEAD + count * ENTRY.itemsize]


def may_hold(words: Words, high: Words, low: Words) -> Mask:
    """Return which chunks the filter lets pass: all that are there, and a few others."""
    bits = _bits(low)
    passed: Mask = words[_word(high, len(words))] & bits == bits
    return passed


def _word(high: Words, words: int) -> npt.NDArray[np.int64]:
    """Not falling in ``high``."""
    return ((high >> np.uint64(32)) * np.uint64(words) >> np.uint64(32)).astype(np.int64)


def _bits(low: Words) -> Words:
    bits = np.zeros(len(low), np.uint64)
    for probe in range(PROBES):
        bits |= np.uint64(1) << (low >> np.uint64(6 * probe) & np.uint64(63))
    return bits


def _digest(run: bytes, body: Buffer) -> bytes:
    hasher = blake3(run)
    hasher.update(body)
    return hasher.digest(16)
