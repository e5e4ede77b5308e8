"""The chunk store: base copies, cut in 64 KiB chunks, each stored once per deduplication domain.

The machines of a domain share its chunks. Each domain has keys of its own, so that nobody finds what another one holds.

`ChunkStore` knows which chunks a domain holds; a `ChunkWriter`, one for each base copy, seals new ones into chunk
packs. A chunk is findable by others only once its pack is durable. A pack that no base map came to name (a crash) is
removed by garbage collection. Hashes are checked against the bytes: an agent cannot place a wrong chunk in the way
of other machines.
"""

from __future__ import annotations

import threading
from array import array
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt
from blake3 import blake3

from farshore.formats import chunk_pack, vault_names
from farshore.formats.batch import Buffer
from farshore.formats.chunk_pack import LOCATOR, Hashes, Locators
from farshore.formats.container import HEADER_BYTES, PACK_ROW, Kind, pack_offsets
from farshore.model.errors import Damaged, NotFound
from farshore.vault.chunk_index import ChunkIndex
from farshore.vault.keys.port import ChunkKeys
from farshore.vault.objects.directories import directories, fits
from farshore.vault.objects.opening import OpenedObject, open_object
from farshore.vault.objects.sealing import Sealer, SealingKey, concatenated
from farshore.vault.stores.port import Store
from farshore.vault.upkeep.salts import Salts, SaltSet, as_salts

PACK_TARGET = 8 << 20
_READERS = 16
_WORTH_DIRECTORIES = 64
"""New packs for whose sake directories are read."""
_WORTH_SPLITTING = 1 << 16
"""Packs of which each of the 256 folders is listed by itself, several at once: 64 requests in a row otherwise."""
_AT_ONCE = 1024
"""Indexes of packs that are held in memory at once while many are read."""


class ChunkStore:
    """What the vault holds of one domain; 0 is the installation's. Safe to use from several threads.

    ``folder`` keeps the index of its chunks on local disk, so that memory stays small and a restart reads only what is
    new. The vault's listing decides: nothing is answered before it was read, and a pack that is not in it is not held.
    """

    def __init__(self, store: Store, keys: ChunkKeys, domain: int = 0, folder: Path | None = None) -> None:
        self._store = store
        self.keys = keys
        self.domain = domain
        self._refreshing = threading.Lock()
        """One at a time: of two, the one that listed earlier could learn of a pack that the other saw is gone."""
        self._changing = threading.Lock()
        self._shunned = SaltSet()
        self._useless = SaltSet()
        self._published: set[bytes] | None = None
        """Packs published while a refresh runs."""
        self._folder = folder
        self._opening = threading.Lock()
        self._opened: ChunkIndex | None = None
        self._fresh: ChunkIndex | None = None
        """The open index, once it was compared with a listing. One that was opened again may find packs that are gone
        or shunned: nothing is answered from it before that."""

    def refresh(self) -> ChunkIndex:
        """Learn of packs that others have stored, and forget those that are gone; return the index. A pack whose index
        is damaged is left out: its chunks count as missing. Raises the store's errors, WrongKey."""
        with self._refreshing:
            with self._changing:
                # What is published from here on may be missing in the listing, and is not gone for that.
                index = self._index
                before = index.salts()
                self._published = set()
            listed, sizes = self._listed(len(before))
            there = SaltSet(listed)
            with self._changing:
                # What was forgotten before the index was opened again may come from its folder.
                index.drop(self._shunned | SaltSet(before.salts()[~there.contains(before.salts())]))
            with self._changing:
                known = before | self._useless | self._shunned
            new = ~known.contains(listed)
            listed, sizes = listed[new], sizes[new]
            if len(listed) >= _WORTH_DIRECTORIES:
                rest = self._load_directories(index, listed, sizes)
                listed, sizes = listed[rest], sizes[rest]
            self._load(index, listed, sizes)
            with self._changing:
                self._published = None
                if self._opened is index:  # not closed meanwhile
                    self._fresh = index
            return index

    def find(self, hashes: Hashes) -> tuple[npt.NDArray[np.bool_], Locators]:
        """Return which chunks are held, and where; ``hashes`` has shape (n, 32). Loads the indexes at the first
        call."""
        index = self._fresh
        if index is None:
            index = self.refresh()
        return index.find(hashes)

    def known(self, hashes: Hashes) -> npt.NDArray[np.bool_]:
        """Return which chunks are held."""
        return self.find(hashes)[0]

    def writer(self) -> ChunkWriter:
        """Return a writer for one base copy."""
        return ChunkWriter(self, self._store)

    def forget(self, names: Iterable[str]) -> None:
        """Remove the chunks of these pack objects, of any domain, from what can be found."""
        salts = (vault_names.chunk_salt(name, self.domain) for name in names)
        gone = SaltSet.of(salt for salt in salts if salt is not None)
        with self._changing:
            self._shunned |= gone
            self._index.drop(gone)

    def publish(self, salt: bytes, hashes: Hashes, locators: Locators) -> None:
        """Make the chunks of a durable pack findable."""
        with self._changing:
            if self._published is not None:
                self._published.add(salt)
            self._index.add(salt, hashes, locators)

    def close(self) -> None:
        """Write what is in memory only to the folder, and give it to others."""
        with self._changing, self._opening:
            opened, self._opened, self._fresh = self._opened, None, None
            if opened is not None:
                opened.close()

    @property
    def _index(self) -> ChunkIndex:
        """Opened when it is first needed: many only want the keys, and a folder serves one process."""
        with self._opening:
            if self._opened is None:
                self._opened = ChunkIndex(self._folder, self.keys.seal.id)
            return self._opened

    def _listed(self, known: int = 0) -> tuple[Salts, npt.NDArray[np.uint64]]:
        """The domain's packs in the vault, and their sizes. ``known``: about how many there are."""
        prefix = vault_names.chunk_packs(self.domain)
        if known < _WORTH_SPLITTING:
            return self._listed_below(prefix)
        with ThreadPoolExecutor(_READERS) as readers:
            parts = list(readers.map(self._listed_below, [f"{prefix}{first:02x}/" for first in range(256)]))
        return np.concatenate([salts for salts, _ in parts]), np.concatenate([sizes for _, sizes in parts])

    def _listed_below(self, prefix: str) -> tuple[Salts, npt.NDArray[np.uint64]]:
        salts, sizes = bytearray(), array("Q")
        for item in self._store.list(prefix):
            # Packs of other domains follow those of domain 0, and are not listed for its sake.
            if vault_names.chunk_domain(item.name) != self.domain:
                break
            salt = vault_names.chunk_salt(item.name, self.domain)
            if salt is not None:
                salts += salt
                sizes.append(item.size)
        return as_salts(salts), np.frombuffer(sizes, np.uint64)

    def _load(self, index: ChunkIndex, salts: Salts, sizes: npt.NDArray[np.uint64]) -> None:
        with ThreadPoolExecutor(_READERS) as readers:
            for first in range(0, len(salts), _AT_ONCE):
                some = [salt.tobytes() for salt in salts[first : first + _AT_ONCE]]
                found = readers.map(self._index_of, some, sizes[first : first + _AT_ONCE].tolist())
                for salt, contents in zip(some, found, strict=True):
                    self._learn(index, salt, contents)

    def _load_directories(
        self, index: ChunkIndex, salts: Salts, sizes: npt.NDArray[np.uint64]
    ) -> npt.NDArray[np.bool_]:
        """Learn of packs from directories; return which of them are in none that can be read."""
        wanted = SaltSet(salts)
        size_of = np.zeros(len(wanted), np.uint64)
        size_of[wanted.places(salts)] = sizes
        left = np.ones(len(wanted), np.bool_)
        for _, directory in directories(self._store, self.keys.seal, self.domain):
            if directory is None:
                continue
            places = wanted.places(directory.salts)
            mine = (places >= 0) & left[places]
            if np.count_nonzero(mine) < _WORTH_DIRECTORIES // 8:
                continue
            try:
                for place, one in zip(places[mine].tolist(), directory.contents(mine), strict=True):
                    if fits(one, int(size_of[place])):
                        self._learn(index, one.salt, (one.hashes, _locators(one.salt, one.rows)))
                        left[place] = False
            except (Damaged, NotFound):  # the packs themselves are read
                continue
        return left[wanted.places(salts)]

    def _learn(self, index: ChunkIndex, salt: bytes, contents: tuple[Hashes, Locators] | None) -> None:
        with self._changing:
            if contents is None:
                self._useless |= SaltSet.of([salt])
            elif salt not in self._shunned and salt not in (self._published or ()):
                index.add(salt, *contents)

    def _index_of(self, salt: bytes, size: int) -> tuple[Hashes, Locators] | None:
        name = vault_names.chunk_pack(salt, self.domain)
        try:
            return pack_contents(open_object(self._store, self.keys.seal, name, size, Kind.CHUNK_PACK))
        except (NotFound, Damaged):  # collected since it was listed, or of no use
            return None


class ChunkWriter:
    """Stores the new chunks of one base copy. ``add`` may be called from several threads; ``flush`` after them."""

    def __init__(self, chunks: ChunkStore, store: Store) -> None:
        self._chunks, self._store, self._keys = chunks, store, chunks.keys
        self._idle: list[_OpenPack] = []
        self._full: list[_OpenPack] = []
        self._held = 0
        """Packs in the hands of some thread."""
        self._changed = threading.Condition()

    def add(self, hashes: Hashes, lengths: npt.NDArray[np.uint32], payload: Buffer) -> Locators:
        """Store the packs that earlier calls filled, then seal chunks. They are durable after `flush`, or once found by
        others.

        Raises Damaged where a chunk does not have its hash, and the store's errors; then nothing of this call counts.
        In the store's case nothing was sealed either: a call that is repeated throughout an outage costs nothing.
        """
        self._put_full()
        view = memoryview(payload).cast("B")
        locators = np.zeros(len(hashes), LOCATOR)
        pack = self._take()
        try:
            start = 0
            for number in range(len(hashes)):
                piece = view[start : start + int(lengths[number])]
                start += len(piece)
                wanted = hashes[number].tobytes()
                if blake3(piece, key=self._keys.hash).digest() != wanted:
                    raise Damaged("A chunk does not match its hash.", remedy="Send it again.")
                locators[number] = pack.add(wanted, piece)
                if pack.size >= PACK_TARGET:
                    with self._changed:
                        self._full.append(pack)
                    pack = _OpenPack(self._keys.seal)
        finally:
            with self._changed:
                if pack.hashes:
                    self._idle.append(pack)
                self._let_go()
        return locators

    def flush(self) -> None:
        """Store what is left. All chunks added before are durable when it returns."""
        while True:
            with self._changed:
                self._full += self._idle
                self._idle = []
            self._put_full()
            with self._changed:
                # A call whose machine gave it up, and sent it again, may still have a pack with chunks that count.
                while self._held:
                    self._changed.wait()
                if not self._full and not self._idle:
                    return

    def _take(self) -> _OpenPack:
        with self._changed:
            self._held += 1
            return self._idle.pop() if self._idle else _OpenPack(self._keys.seal)

    def _let_go(self) -> None:
        self._held -= 1
        self._changed.notify_all()

    def _put_full(self) -> None:
        while True:
            with self._changed:
                if not self._full:
                    return
                pack = self._full.pop()
                self._held += 1
            stored = False
            try:
                self._put(pack)
                stored = True
            finally:
                with self._changed:
                    if not stored:
                        self._full.append(pack)
                    self._let_go()

    def _put(self, pack: _OpenPack) -> None:
        name = vault_names.chunk_pack(pack.sealer.header.salt, self._chunks.domain)
        hashes = np.frombuffer(b"".join(pack.hashes), np.uint8).reshape(-1, 32)
        rows = np.array(pack.rows, PACK_ROW)
        end = pack.sealer.finish(name, chunk_pack.encode_index(hashes, rows), rows)
        self._store.put(name, concatenated(pack.sealer.header, pack.packs, end))
        self._chunks.publish(pack.sealer.header.salt, hashes, _locators(pack.sealer.header.salt, rows))


class _OpenPack:
    """A chunk pack being filled by one thread at a time."""

    def __init__(self, key: SealingKey) -> None:
        self.sealer = Sealer(key, Kind.CHUNK_PACK)
        self.hashes: list[bytes] = []
        self.rows: list[tuple[int, int, int]] = []
        self.packs: list[Buffer] = []
        self.size = HEADER_BYTES

    def add(self, digest: bytes, piece: memoryview) -> tuple[bytes, int, int, int]:
        ordinal = self.sealer.reserve(1)
        sealed = self.sealer.pack(piece, ordinal)
        locator = (self.sealer.header.salt, ordinal, self.size, len(sealed))
        self.hashes.append(digest)
        self.rows.append((len(piece), len(sealed), ordinal))
        self.packs.append(sealed)
        self.size += len(sealed)
        return locator


def pack_contents(opened: OpenedObject) -> tuple[Hashes, Locators]:
    """Return the chunks of an opened chunk pack. Raises Damaged."""
    hashes, rows = chunk_pack.decode_index(opened.index, opened.name)
    return hashes, _locators(opened.header.salt, rows)


def _locators(salt: bytes, rows: npt.NDArray[np.void]) -> Locators:
    locators = np.zeros(len(rows), LOCATOR)
    locators["salt"] = np.void(salt)
    locators["ordinal"] = rows["ordinal"]
    locators["offset"] = pack_offsets(rows)[:-1]
    locators["stored"] = rows["stored"]
    return locators
