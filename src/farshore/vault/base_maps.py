"""Base maps: written while a disk is copied, read page by page afterwards."""

from __future__ import annotations

import secrets
import threading

import numpy as np
import numpy.typing as npt

from farshore.formats import base_map, vault_names
from farshore.formats.base_map import ENTRY, INHERIT, PAGE_CHUNKS, ZERO, BaseMapIndex, Entries, chunk_count
from farshore.formats.batch import Buffer
from farshore.formats.chunk_pack import Hashes, Locators
from farshore.formats.container import PACK_ROW, Kind
from farshore.model.errors import Damaged, Malformed
from farshore.model.identifiers import CHUNK, DiskNumber, Epoch, MachineId
from farshore.vault.objects import OpenedObject, SealedObject
from farshore.vault.sealing import Sealer, SealingKey, concatenated

Numbers = npt.NDArray[np.int64]


class BaseMapWriter:
    """Collects where the chunks of one disk are. Safe to use from several threads.

    A chunk that is never set is ``rest``: INHERIT with a parent, ZERO without. Memory: 48 bytes for each chunk of
    the 128 MiB pages in which something was set.
    """

    def __init__(
        self, key: SealingKey, machine: MachineId, epoch: Epoch, disk: DiskNumber, size: int, rest: int
    ) -> None:
        self._key, self._machine, self._epoch, self._disk, self._size = key, machine, epoch, disk, size
        self._rest = rest
        self.unique = secrets.token_hex(8)
        """Part of the map's name."""
        self._pages: dict[int, tuple[Entries, Hashes]] = {}
        self._salts: dict[bytes, int] = {}
        self._lock = threading.Lock()

    @property
    def size(self) -> int:
        """The disk's bytes."""
        return self._size

    def set_zero(self, chunks: Numbers) -> None:
        """These chunks read as zeroes."""
        self._set(chunks, _special(len(chunks), ZERO), None)

    def set_inherited(self, chunks: Numbers, hashes: Hashes) -> None:
        """These chunks are as at the parent position, where they have these hashes."""
        self._set(chunks, _special(len(chunks), INHERIT), hashes)

    def set_stored(self, chunks: Numbers, hashes: Hashes, locators: Locators) -> None:
        """These chunks are in the chunk store. Raises Malformed for a chunk outside the disk."""
        entries = np.zeros(len(chunks), ENTRY)
        with self._lock:
            names, inverse = np.unique(np.ascontiguousarray(locators["salt"]), return_inverse=True)
            numbers = np.array([self._salts.setdefault(bytes(name), len(self._salts)) for name in names], np.uint32)
        entries["pack"] = numbers[inverse] if len(chunks) else 0
        for field in ("ordinal", "offset", "stored"):
            entries[field] = locators[field]
        self._set(chunks, entries, hashes)

    def finish(self) -> SealedObject:
        """The map's object. All chunks it names must be durable before it is stored."""
        name = vault_names.base_map(self._machine, self._epoch, self._disk, self.unique)
        sealer = Sealer(self._key, Kind.BASE_MAP)
        pages = -(-chunk_count(self._size) // PAGE_CHUNKS)
        rows = np.zeros(2 * pages, PACK_ROW)
        packs: list[bytes] = []
        with self._lock:
            for page in range(pages):
                first, end = base_map.page_range(page, PAGE_CHUNKS, self._size)
                entries, hashes = self._pages.get(page) or self._blank()
                for part in (entries[: end - first].tobytes(), hashes[: end - first].tobytes()):
                    ordinal = sealer.reserve(1)
                    packs.append(sealer.pack(part, ordinal))
                    rows[ordinal] = (len(part), len(packs[-1]), ordinal)
            salts = np.frombuffer(b"".join(self._salts), np.uint8).reshape(-1, 16)
        index = BaseMapIndex(self._machine, self._epoch, self._disk, self._size, PAGE_CHUNKS, salts, rows)
        end_buffers = sealer.finish(name, base_map.encode_index(index), rows)
        return SealedObject(name, concatenated(sealer.header, packs, end_buffers))

    def _blank(self) -> tuple[Entries, Hashes]:
        return _special(PAGE_CHUNKS, self._rest), np.zeros((PAGE_CHUNKS, 32), np.uint8)

    def _set(self, chunks: Numbers, entries: Entries, hashes: Hashes | None) -> None:
        if len(chunks) and (int(chunks.min()) < 0 or int(chunks.max()) >= chunk_count(self._size)):
            raise Malformed("A chunk lies outside its disk.", remedy="Begin another epoch: the disk has changed.")
        pages = chunks // PAGE_CHUNKS
        with self._lock:
            for page in np.unique(pages):
                chosen = pages == page
                within = chunks[chosen] - page * PAGE_CHUNKS
                table, digests = self._pages.setdefault(int(page), self._blank())
                table[within] = entries[chosen]
                digests[within] = 0 if hashes is None else hashes[chosen]


class BaseMap:
    """A stored base map. Pages are read when needed; the caller caches them."""

    def __init__(self, opened: OpenedObject) -> None:
        self.opened = opened
        self.index = base_map.decode_index(opened.index, opened.name)
        self.chunks = chunk_count(self.index.size)

    def check(self, machine: MachineId, epoch: Epoch, disk: DiskNumber) -> None:
        """Raise Damaged unless this is the map of that disk."""
        if (self.index.machine, self.index.epoch, self.index.disk) != (machine, epoch, disk):
            raise Damaged(f"{self.opened.name} is the map of another disk.", remedy="Run `farshore vault verify`.")

    def entries(self, page: int) -> Entries:
        """The entries of one page. Raises Damaged."""
        entries: Entries = np.frombuffer(self._page(2 * page, page, ENTRY.itemsize), ENTRY)
        packs = entries["pack"]
        if ((packs >= len(self.index.salts)) & (packs < INHERIT)).any():
            raise Damaged(f"Page {page} of {self.opened.name} is wrong.", remedy="Run `farshore vault verify`.")
        return entries

    def hashes(self, page: int) -> Hashes:
        """The hashes of one page, shape (n, 32): zeroes for a zero chunk and where an inherited one was not told."""
        return np.frombuffer(self._page(2 * page + 1, page, 32), np.uint8).reshape(-1, 32)

    def _page(self, pack: int, page: int, unit: int) -> Buffer:
        data = self.opened.read_pack(pack)
        first, end = base_map.page_range(page, self.index.page_chunks, self.index.size)
        if len(data) != (end - first) * unit:
            raise Damaged(f"Page {page} of {self.opened.name} is short.", remedy="Run `farshore vault verify`.")
        return data


def chunk_length(chunk: int, size: int) -> int:
    """Bytes of chunk ``chunk`` of a disk of ``size`` bytes."""
    return min(CHUNK, size - chunk * CHUNK)


def _special(count: int, kind: int) -> Entries:
    entries = np.zeros(count, ENTRY)
    entries["pack"] = kind
    return entries
