"""Chunk directories: read by who learns what a domain holds, written by upkeep.

A directory repeats the indexes of up to PACKS chunk packs. It is a convenience: a pack that it names counts only if
the vault's listing has it with a size that fits, and everything works without directories, one read a pack. So they
are put and deleted without any care for others: who misses one reads packs, and of two who write at once the next run
removes what is there twice. Objects that are mostly of packs gone since are written anew, and small ones made one.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from farshore.formats import chunk_directory, chunk_pack, vault_names
from farshore.formats.chunk_directory import COVERED, PACK_BYTES, ROW, DirectoryIndex, Rows
from farshore.formats.chunk_pack import Hashes
from farshore.formats.container import HEADER_BYTES, PACK_ROW, Kind, PackRows
from farshore.model.errors import Damaged, NotFound, Unsupported, WrongKey
from farshore.vault.objects.opening import OpenedObject, open_object
from farshore.vault.objects.sealing import Sealer, SealingKey, concatenated
from farshore.vault.stores.port import Store
from farshore.vault.upkeep.salts import Salts, SaltSet

_log = logging.getLogger(__name__)
PACKS = 4096
_CHUNKS = 1 << 19
"""A directory has no more chunks than a pack's besides, so it is some 12 MiB."""
_LEAST = 256
"""Packs in no directory that make it worth while to write one."""
_MOST_SMALL = 8
_READERS = 16
_AT_ONCE = 1024
_UNREADABLE = (Damaged, NotFound, Unsupported, WrongKey)

Sizes = npt.NDArray[np.uint64]


class PackContents(NamedTuple):
    """What a chunk pack holds: the first 16 bytes of each hash, shape (n, 16); and its pack table, without ``raw``."""

    salt: bytes
    hashes: Hashes
    rows: PackRows


class Directory:
    """An opened directory. Raises Damaged, NotFound, Unsupported, WrongKey, the store's errors."""

    def __init__(self, store: Store, key: SealingKey, name: str, size: int) -> None:
        self.name = name
        self._opened: OpenedObject = open_object(store, key, name, size, Kind.CHUNK_DIRECTORY)
        self.index: DirectoryIndex = chunk_directory.decode_index(self._opened.index, name)
        if self.index.domain != vault_names.directory_domain(name):
            raise Damaged(f"{name} belongs to another deduplication domain.", remedy="Run `farshore vault maintain`.")

    @property
    def chunks(self) -> int:
        """How many chunks its packs have."""
        return int(self.index.covered["chunks"].sum(dtype=np.int64))

    @property
    def salts(self) -> Salts:
        """The packs that it covers."""
        return np.ascontiguousarray(self.index.covered["salt"]).view(np.uint8).reshape(-1, 16)

    def contents(self, wanted: npt.NDArray[np.bool_]) -> Iterator[PackContents]:
        """Yield what these of its packs hold. Reads all of the object. Raises Damaged, NotFound."""
        rows = np.frombuffer(b"".join(self._opened.read_packs(range(len(self.index.packs)))), ROW)
        ends = np.cumsum(self.index.covered["chunks"], dtype=np.int64)
        for number in np.flatnonzero(wanted).tolist():
            count = int(self.index.covered["chunks"][number])
            yield _contents(self.salts[number].tobytes(), rows[int(ends[number]) - count : int(ends[number])])


def _contents(salt: bytes, rows: Rows) -> PackContents:
    table = np.zeros(len(rows), PACK_ROW)
    table["stored"], table["ordinal"] = rows["stored"], rows["ordinal"]
    hashes = np.ascontiguousarray(rows["hash"]).view(np.uint8).reshape(-1, 16)
    return PackContents(salt, hashes, table)


def fits(contents: PackContents, size: int) -> bool:
    """Return whether a pack of ``size`` bytes may hold that."""
    return HEADER_BYTES + int(contents.rows["stored"].sum(dtype=np.int64)) < size


def directories(store: Store, key: SealingKey, domain: int) -> Iterator[tuple[str, Directory | None]]:
    """Yield a domain's directories by name; None for a damaged one. Those of a newer release, or under another key, are
    passed over. Raises the store's passing errors."""
    for item in list(store.list(vault_names.directories(domain))):
        try:
            yield item.name, Directory(store, key, item.name, item.size)
        except Damaged as error:
            _log.warning("A chunk directory is passed over: %s", error)
            yield item.name, None
        except (NotFound, Unsupported, WrongKey):
            continue


def renew(store: Store, key: SealingKey, domain: int, salts: Salts, sizes: Sizes) -> int:
    """Have the packs that are listed covered, but for a few; return how many directories were written. Memory: 50
    bytes a pack and some 40 MiB. May be stopped and repeated at any time, and run by several at once."""
    there = SaltSet(salts)
    covered, named = np.zeros(len(there), np.bool_), np.zeros(len(there), np.bool_)
    again: list[Directory] = []
    opened = dict(directories(store, key, domain))
    useless = [name for name, found in opened.items() if found is None]
    wanting = bool(useless)
    # The large ones first: what they cover, a small one that a broken-off run left names for nothing.
    for found in sorted((one for one in opened.values() if one is not None), key=_by_size):
        mine = there.places(found.salts)
        alive = mine[mine >= 0]
        alive = alive[~named[alive]]
        named[alive] = True
        whole = 2 * len(mine) >= PACKS or 2 * found.chunks >= _CHUNKS
        mostly_gone = 2 * len(alive) < len(mine)
        if whole and not mostly_gone:
            covered[alive] = True
        else:
            wanting |= mostly_gone
            again.append(found)
    new = ~named[there.places(salts)]
    if not wanting and len(again) < _MOST_SMALL and np.count_nonzero(new) < _LEAST:
        return 0
    written = 0
    made = Building(key, domain)
    sources = (_rest_of(one, there, covered) for one in again)
    for contents in _all((*sources, _opened_packs(store, key, domain, salts[new], sizes[new]))):
        if contents.salt not in made.salts:
            made.add(contents)
        if made.full:
            made.put(store)
            written += 1
            made = Building(key, domain)
    if made.salts:
        made.put(store)
        written += 1
    for name in (*useless, *(one.name for one in again)):
        store.delete(name)
    return written


def remove_naming(store: Store, key: SealingKey, domain: int, gone: SaltSet) -> None:
    """Delete the directories that name one of these packs, or that are damaged."""
    for name, found in directories(store, key, domain):
        if found is None or gone.contains(found.salts).any():
            store.delete(name)


def _by_size(one: Directory) -> tuple[int, str]:
    return -len(one.index.covered), one.name


def _all(sources: Iterable[Iterator[PackContents]]) -> Iterator[PackContents]:
    for one in sources:
        yield from one


def _rest_of(one: Directory, there: SaltSet, covered: npt.NDArray[np.bool_]) -> Iterator[PackContents]:
    """What an object that goes names and no other does."""
    try:
        places = there.places(one.salts)
        wanted = places >= 0
        wanted[wanted] = ~covered[places[wanted]]
        yield from one.contents(wanted)
    except _UNREADABLE as error:
        _log.warning("A chunk directory is passed over: %s", error)


def _opened_packs(store: Store, key: SealingKey, domain: int, salts: Salts, sizes: Sizes) -> Iterator[PackContents]:
    """What packs hold, by their own indexes; those that cannot be read are left out."""

    def opened(salt: bytes, size: int) -> PackContents | None:
        name = vault_names.chunk_pack(salt, domain)
        try:
            index = open_object(store, key, name, size, Kind.CHUNK_PACK).index
            hashes, rows = chunk_pack.decode_index(index, name)
        except _UNREADABLE:
            return None
        return PackContents(salt, hashes[:, :16], rows)

    with ThreadPoolExecutor(_READERS) as readers:
        for first in range(0, len(salts), _AT_ONCE):
            some = [salt.tobytes() for salt in salts[first : first + _AT_ONCE]]
            for found in readers.map(opened, some, sizes[first : first + _AT_ONCE].tolist()):
                if found is not None:
                    yield found


class Building:
    """A directory being made."""

    def __init__(self, key: SealingKey, domain: int) -> None:
        self._sealer = Sealer(key, Kind.CHUNK_DIRECTORY)
        self._domain = domain
        self.salts: dict[bytes, int] = {}
        self._rows: list[Rows] = []
        self._count = 0

    @property
    def full(self) -> bool:
        """Whether it is as large as one gets."""
        return len(self.salts) >= PACKS or self._count >= _CHUNKS

    def add(self, contents: PackContents) -> None:
        """Add one more pack to the directory."""
        rows = np.zeros(len(contents.rows), ROW)
        rows["hash"] = np.ascontiguousarray(contents.hashes).view("V16")[:, 0]
        rows["stored"], rows["ordinal"] = contents.rows["stored"], contents.rows["ordinal"]
        self.salts[contents.salt] = len(rows)
        self._rows.append(rows)
        self._count += len(rows)

    def put(self, store: Store) -> None:
        """Seal and store it."""
        name = vault_names.directory(self._sealer.header.salt, self._domain)
        table, packs = self._sealer.packs(np.concatenate(self._rows).tobytes(), PACK_BYTES)
        covered = np.zeros(len(self.salts), COVERED)
        covered["salt"] = np.frombuffer(b"".join(self.salts), "V16")
        covered["chunks"] = list(self.salts.values())
        index = chunk_directory.encode_index(DirectoryIndex(self._domain, covered, table))
        store.put(name, concatenated(self._sealer.header, packs, self._sealer.finish(name, index, table)))
