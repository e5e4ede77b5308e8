"""The chunk store: base copies, cut in 64 KiB chunks, each stored once per deduplication domain.

The machines of a domain share its chunks. Each domain has keys of its own, so that nobody finds what another one holds.

`ChunkStore` knows which chunks a domain holds; a `ChunkWriter`, one for each base copy, seals new ones into chunk
packs. A chunk is findable by others only once its pack is durable. A pack that no base map came to name (a crash) is
removed by garbage collection. Hashes are checked against the bytes: an agent cannot place a wrong chunk in the way
of other machines.
"""

from __future__ import annotations

import itertools
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
from blake3 import blake3

from farshore.formats import chunk_pack, vault_names
from farshore.formats.batch import Buffer
from farshore.formats.chunk_pack import LOCATOR, Hashes, Locators
from farshore.formats.container import HEADER_BYTES, PACK_ROW, Kind, pack_offsets
from farshore.model.errors import Damaged, NotFound
from farshore.vault.keys import ChunkKeys
from farshore.vault.objects import OpenedObject, open_object
from farshore.vault.sealing import Sealer, SealingKey, concatenated
from farshore.vault.stores.port import Listed, Store

PACK_TARGET = 8 << 20
_MERGE_AT = 1 << 16
_READERS = 16


class ChunkStore:
    """What the vault holds of one domain; 0 is the installation's. Safe to use from several threads."""

    def __init__(self, store: Store, keys: ChunkKeys, domain: int = 0) -> None:
        self._store = store
        self.keys = keys
        self.domain = domain
        self._lock = threading.Lock()
        self._loaded: set[str] = set()
        self._shunned: set[str] = set()
        self._high: npt.NDArray[np.uint64] = np.zeros(0, np.uint64)
        self._low: npt.NDArray[np.uint64] = np.zeros(0, np.uint64)
        self._locators: Locators = np.zeros(0, LOCATOR)
        self._recent: list[tuple[Hashes, Locators]] = []
        self._recent_count = 0
        self._fresh = False

    def refresh(self) -> None:
        """Learn of packs that others have stored, and forget those that are gone. A pack whose index is damaged is left
        out: its chunks count as missing. Raises the store's errors, WrongKey."""
        with self._lock:
            before = set(self._loaded)
            # Packs of other domains follow those of domain 0, and are not listed for its sake.
            every = self._store.list(vault_names.chunk_packs(self.domain))
            listed = list(itertools.takewhile(lambda item: vault_names.chunk_domain(item.name) == self.domain, every))
            self._drop(before - {item.name for item in listed})
            known = self._loaded | self._shunned
            new = [item for item in listed if item.name not in known]
            with ThreadPoolExecutor(_READERS) as readers:
                for item, found in zip(new, readers.map(self._index_of, new), strict=True):
                    if found is not None:
                        self._learn(*found)
                    self._loaded.add(item.name)
            self._merge()
            self._fresh = True

    def find(self, hashes: Hashes) -> tuple[npt.NDArray[np.bool_], Locators]:
        """Which chunks are held, and where; ``hashes`` has shape (n, 32). Loads the indexes at the first call."""
        if not self._fresh:
            self.refresh()
        with self._lock:
            if self._recent:
                self._merge()
            high, low = _words(hashes)
            found = np.zeros(len(hashes), np.bool_)
            locators = np.zeros(len(hashes), LOCATOR)
            if len(self._high):
                place = np.minimum(np.searchsorted(self._high, high), len(self._high) - 1)
                found = (self._high[place] == high) & (self._low[place] == low)
                locators[found] = self._locators[place[found]]
        return found, locators

    def known(self, hashes: Hashes) -> npt.NDArray[np.bool_]:
        """Which chunks are held."""
        return self.find(hashes)[0]

    def writer(self) -> ChunkWriter:
        """A writer for one base copy."""
        return ChunkWriter(self, self._store)

    def forget(self, names: set[str]) -> None:
        """No longer find the chunks of these pack objects."""
        with self._lock:
            self._shunned |= names
            self._drop(names)

    def _drop(self, names: set[str]) -> None:
        gone = self._loaded & names
        if gone:
            self._loaded -= gone
            self._merge()
            salts = {bytes.fromhex(name.rpartition("/")[2]) for name in gone}
            held, rows = np.unique(self._locators["salt"].copy(), return_inverse=True)
            keep = np.array([salt.tobytes() not in salts for salt in held], np.bool_)[rows]
            self._high, self._low, self._locators = self._high[keep], self._low[keep], self._locators[keep]

    def publish(self, name: str, hashes: Hashes, locators: Locators) -> None:
        """Make the chunks of a durable pack findable."""
        with self._lock:
            self._loaded.add(name)
            self._learn(hashes, locators)
            if self._recent_count >= _MERGE_AT:
                self._merge()

    def _index_of(self, item: Listed) -> tuple[Hashes, Locators] | None:
        try:
            opened = open_object(self._store, self.keys.seal, item.name, item.size, Kind.CHUNK_PACK)
            return pack_contents(opened)
        except (NotFound, Damaged):  # collected since it was listed, or of no use
            return None

    def _learn(self, hashes: Hashes, locators: Locators) -> None:
        self._recent.append((hashes, locators))
        self._recent_count += len(hashes)

    def _merge(self) -> None:
        if not self._recent:
            return
        words = [_words(hashes) for hashes, _ in self._recent]
        high = np.concatenate([self._high, *(pair[0] for pair in words)])
        low = np.concatenate([self._low, *(pair[1] for pair in words)])
        locators = np.concatenate([self._locators, *(pair[1] for pair in self._recent)])
        order = np.argsort(high, kind="stable")
        # Of two chunks with the same hash the older stays: it is the one that base maps are likelier to name.
        order = order[np.concatenate(([True], high[order][1:] != high[order][:-1]))]
        self._high, self._low, self._locators = high[order], low[order], locators[order]
        self._recent, self._recent_count = [], 0


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
                    raise Damaged("A chunk does not have the hash it came with.", remedy="Send it again.")
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
        self._chunks.publish(name, hashes, _locators(pack.sealer.header.salt, rows))


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
    """The chunks of an opened chunk pack. Raises Damaged."""
    hashes, rows = chunk_pack.decode_index(opened.index, opened.name)
    return hashes, _locators(opened.header.salt, rows)


def _locators(salt: bytes, rows: npt.NDArray[np.void]) -> Locators:
    locators = np.zeros(len(rows), LOCATOR)
    locators["salt"] = np.void(salt)
    locators["ordinal"] = rows["ordinal"]
    locators["offset"] = pack_offsets(rows)[:-1]
    locators["stored"] = rows["stored"]
    return locators


def _words(hashes: Hashes) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]]:
    """The first 16 bytes of each hash as two words: enough that keyed hashes never meet by chance."""
    words = np.ascontiguousarray(hashes).view("<u8").reshape(-1, 4)
    return words[:, 0].copy(), words[:, 1].copy()
