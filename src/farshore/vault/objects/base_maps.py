"""Base maps: written while a disk is copied, read page by page afterwards."""

from __future__ import annotations

import itertools
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
from farshore.vault.objects.opening import OpenedObject, SealedObject
from farshore.vault.objects.sealing import Sealer, SealingKey, concatenated

SLICE_CHUNKS = 128
_SLICES = PAGE_CHUNKS // SLICE_CHUNKS

Numbers = npt.NDArray[np.int64]


class BaseMapWriter:
    """Collects where the chunks of one disk are. Safe to use from several threads.

    A chunk that is never set is ``rest``: INHERIT with a parent, ZERO without. Memory: 48 bytes for each chunk of
    the slices of 8 MiB in which something else was set, whatever the size of the disk.
    """

    def __init__(
        self,
        key: SealingKey,
        machine: MachineId,
        epoch: Epoch,
        disk: DiskNumber,
        size: int,
        rest: int,
        domain: int = 0,
    ) -> None:
        self._domain = domain
        self._key, self._machine, self._epoch, self._disk, self._size = key, machine, epoch, disk, size
        self._rest = rest
        self.unique = secrets.token_hex(8)
        """Part of the map's name."""
        self._slices: dict[int, tuple[Entries, Hashes]] = {}
        self._salts: dict[bytes, int] = {}
        self._lock = threading.Lock()

    @property
    def size(self) -> int:
        """The disk's bytes."""
        return self._size

    def set_zero(self, chunks: Numbers) -> None:
        """Note that these chunks read as zeroes."""
        if self._rest == ZERO:
            chunks = self._in_slices(chunks)
        self._set(chunks, _special(len(chunks), ZERO), None)

    def set_inherited(self, chunks: Numbers, hashes: Hashes) -> None:
        """Note that these chunks are as at the parent position, with these hashes there."""
        self._set(chunks, _special(len(chunks), INHERIT), hashes)

    def set_stored(self, chunks: Numbers, hashes: Hashes, locators: Locators) -> None:
        """Note that these chunks are in the chunk store. Raises Malformed for a chunk outside the disk."""
        entries = np.zeros(len(chunks), ENTRY)
        with self._lock:
            names, inverse = np.unique(np.ascontiguousarray(locators["salt"]), return_inverse=True)
            numbers = np.array([self._salts.setdefault(bytes(name), len(self._salts)) for name in names], np.uint32)
        entries["pack"] = numbers[inverse] if len(chunks) else 0
        for field in ("ordinal", "offset", "stored"):
            entries[field] = locators[field]
        self._set(chunks, entries, hashes)

    def finish(self) -> SealedObject:
        """Return the map's object. All chunks it names must be durable before it is stored."""
        name = vault_names.base_map(self._machine, self._epoch, self._disk, self.unique)
        sealer = Sealer(self._key, Kind.BASE_MAP)
        pages = -(-chunk_count(self._size) // PAGE_CHUNKS)
        rows = np.zeros(2 * pages, PACK_ROW)
        packs: list[bytes] = []
        with self._lock:
            for page in range(pages):
                first, end = base_map.page_range(page, PAGE_CHUNKS, self._size)
                entries, hashes = self._page(page)
                for part in (entries[: end - first].tobytes(), hashes[: end - first].tobytes()):
                    ordinal = sealer.reserve(1)
                    packs.append(sealer.pack(part, ordinal))
                    rows[ordinal] = (len(part), len(packs[-1]), ordinal)
            salts = np.frombuffer(b"".join(self._salts), np.uint8).reshape(-1, 16)
        index = BaseMapIndex(self._machine, self._epoch, self._disk, self._size, PAGE_CHUNKS, salts, rows, self._domain)
        end_buffers = sealer.finish(name, base_map.encode_index(index), rows)
        return SealedObject(name, concatenated(sealer.header, packs, end_buffers))

    def _page(self, page: int) -> tuple[Entries, Hashes]:
        entries, hashes = self._blank(PAGE_CHUNKS)
        for number in range(_SLICES):
            found = self._slices.get(page * _SLICES + number)
            if found is not None:
                where = slice(number * SLICE_CHUNKS, (number + 1) * SLICE_CHUNKS)
                entries[where], hashes[where] = found
        return entries, hashes

    def _blank(self, chunks: int) -> tuple[Entries, Hashes]:
        return _special(chunks, self._rest), np.zeros((chunks, 32), np.uint8)

    def _in_slices(self, chunks: Numbers) -> Numbers:
        """Those of ``chunks`` whose slice holds something; all others are ``rest`` as it is."""
        self._check(chunks)
        slices = chunks // SLICE_CHUNKS
        with self._lock:
            held = [number for number in np.unique(slices).tolist() if number in self._slices]
        return chunks[np.isin(slices, held)]

    def _check(self, chunks: Numbers) -> None:
        if len(chunks) and (int(chunks.min()) < 0 or int(chunks.max()) >= chunk_count(self._size)):
            raise Malformed("A chunk lies outside its disk.", remedy="Begin another epoch, as the disk has changed.")

    def _set(self, chunks: Numbers, entries: Entries, hashes: Hashes | None) -> None:
        self._check(chunks)
        if not len(chunks):
            return
        if len(chunks) > 1 and (np.diff(chunks) < 0).any():
            order = np.argsort(chunks, kind="stable")
            chunks, entries = chunks[order], entries[order]
            hashes = None if hashes is None else hashes[order]
        slices = chunks // SLICE_CHUNKS
        edges = [0, *(np.flatnonzero(np.diff(slices)) + 1).tolist(), len(chunks)]
        with self._lock:
            for low, high in itertools.pairwise(edges):
                number = int(slices[low])
                found = self._slices.get(number)
                if found is None:
                    found = self._slices[number] = self._blank(SLICE_CHUNKS)
                table, digests = found
                within = chunks[low:high] - number * SLICE_CHUNKS
                table[within] = entries[low:high]
                digests[within] = 0 if hashes is None else hashes[low:high]


class BaseMap:
    """A stored base map. Pages are read when needed; the caller caches them."""

    def __init__(self, opened: OpenedObject) -> None:
        self.opened = opened
        self.index = base_map.decode_index(opened.index, opened.name)
        self.chunks = chunk_count(self.index.size)

    def pack_names(self) -> list[str]:
        """Return the chunk packs that entries refer to."""
        return [vault_names.chunk_pack(salt.tobytes(), self.index.domain) for salt in self.index.salts]

    def check(self, machine: MachineId, epoch: Epoch, disk: DiskNumber) -> None:
        """Raise Damaged unless this is the map of that disk."""
        if (self.index.machine, self.index.epoch, self.index.disk) != (machine, epoch, disk):
            raise Damaged(f"{self.opened.name} belongs to another disk.", remedy="Run `farshore vault verify`.")

    def entries(self, page: int) -> Entries:
        """Return the entries of one page. Raises Damaged."""
        entries: Entries = np.frombuffer(self._page(2 * page, page, ENTRY.itemsize), ENTRY)
        packs = entries["pack"]
        if ((packs >= len(self.index.salts)) & (packs < INHERIT)).any():
            raise Damaged(f"Page {page} of {self.opened.name} is wrong.", remedy="Run `farshore vault verify`.")
        return entries

    def hashes(self, page: int) -> Hashes:
        """Return the hashes of one page, shape (n, 32): zeroes for a zero chunk and where an inherited one was not
        told."""
        return np.frombuffer(self._page(2 * page + 1, page, 32), np.uint8).reshape(-1, 32)

    def own_chunks(self) -> Numbers:
        """Return the chunks, sorted, that differ from the parent, or may: all that are not inherited. Raises
        Damaged."""
        size = self.index.page_chunks
        parts = [
            page * size + np.flatnonzero(self.entries(page)["pack"] != INHERIT)
            for page in range(-(-self.chunks // size))
        ]
        return np.concatenate(parts) if parts else np.zeros(0, np.int64)

    def _page(self, pack: int, page: int, unit: int) -> Buffer:
        data = self.opened.read_pack(pack)
        first, end = base_map.page_range(page, self.index.page_chunks, self.index.size)
        if len(data) != (end - first) * unit:
            raise Damaged(f"Page {page} of {self.opened.name} is short.", remedy="Run `farshore vault verify`.")
        return data


def chunk_length(chunk: int, size: int) -> int:
    """Return the number of bytes of chunk ``chunk`` of a disk of ``size`` bytes."""
    return min(CHUNK, size - chunk * CHUNK)


def _special(count: int, kind: int) -> Entries:
    entries = np.zeros(count, ENTRY)
    entries["pack"] = kind
    return entries
