"""Bringing opened packs and chunks to readers: from the cache, or from the store in parallel."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import NamedTuple

from farshore.formats import vault_names
from farshore.formats.batch import Buffer
from farshore.vault.objects.opening import OpenedObject
from farshore.vault.objects.sealing import PackOpener, SealingKey
from farshore.vault.reading.cache import Bytes, PackCache
from farshore.vault.stores.port import Store


class StoredChunk(NamedTuple):
    """A chunk's place in its pack object; ``raw`` and ``stored`` in bytes."""

    ordinal: int
    offset: int
    stored: int
    raw: int


class Fetcher:
    """Brings the plaintext of packs. Safe to use from several threads."""

    def __init__(
        self, store: Store, chunk_key: Callable[[int], SealingKey], cache: PackCache, threads: ThreadPoolExecutor
    ) -> None:
        """``chunk_key`` answers the key of a deduplication domain's chunks."""
        self._store, self._chunk_key, self.cache, self._threads = store, chunk_key, cache, threads
        self._near = store.url.startswith("file:")

    def packs(self, wanted: Sequence[tuple[OpenedObject, Sequence[int]]]) -> dict[tuple[str, int], Bytes]:
        """Return packs by object name and number. Raises Damaged, NotFound, Unreachable."""
        found: dict[tuple[str, int], Bytes] = {}
        missing: list[tuple[OpenedObject, list[int]]] = []
        for opened, numbers in wanted:
            lacking = self._held(opened.name, numbers, found)
            if lacking:
                missing.append((opened, lacking))
        runner = map if len(missing) < 2 else self._threads.map
        for (opened, lacking), data in zip(missing, runner(_read_packs, missing), strict=True):
            for number, pack in zip(lacking, data, strict=True):
                found[opened.name, number] = self.cache.put(opened.name, number, pack)
        return found

    def chunks(self, wanted: Mapping[bytes, Sequence[StoredChunk]], domain: int) -> dict[tuple[str, int], Bytes]:
        """Return chunks by pack object name and ordinal; ``wanted`` lists them by the pack object's salt."""
        found: dict[tuple[str, int], Bytes] = {}
        missing: list[tuple[bytes, list[StoredChunk]]] = []
        for salt, rows in wanted.items():
            lacking = set(self._held(vault_names.chunk_pack(salt, domain), [row.ordinal for row in rows], found))
            if lacking:
                missing.append((salt, [row for row in rows if row.ordinal in lacking]))
        runner = map if len(missing) < 2 else self._threads.map
        for (salt, rows), data in zip(missing, runner(partial(self._read_chunks, domain), missing), strict=True):
            name = vault_names.chunk_pack(salt, domain)
            for row, chunk in zip(rows, data, strict=True):
                found[name, row.ordinal] = self.cache.put(name, row.ordinal, chunk)
        return found

    def chunks_once(self, wanted: Mapping[bytes, Sequence[StoredChunk]], domain: int) -> dict[tuple[str, int], Buffer]:
        """Fetch chunks as `chunks` does, but in this thread and without the cache, for callers that read each chunk
        once."""
        found: dict[tuple[str, int], Buffer] = {}
        for salt, rows in wanted.items():
            name = vault_names.chunk_pack(salt, domain)
            for row, chunk in zip(rows, self._read_chunks(domain, (salt, list(rows))), strict=True):
                found[name, row.ordinal] = chunk
        return found

    def chunks_into(self, wanted: Mapping[bytes, Sequence[tuple[StoredChunk, memoryview]]], domain: int) -> None:
        """Decode chunks straight into the buffers beside them, each as long as its chunk; past the cache. Of a store at
        hand in this thread: others are reading too, and each that decodes in Python holds up the rest."""
        read = partial(self._read_chunks_into, domain)
        for _ in (
            map(read, wanted.items()) if self._near or len(wanted) < 2 else self._threads.map(read, wanted.items())
        ):
            pass

    def _held(self, name: str, numbers: Sequence[int], found: dict[tuple[str, int], Bytes]) -> list[int]:
        """Put what the cache holds into ``found``; return the rest."""
        lacking = []
        for number in numbers:
            held = self.cache.get(name, number)
            if held is None:
                lacking.append(number)
            else:
                found[name, number] = held
        return lacking

    def _read_chunks(self, domain: int, item: tuple[bytes, list[StoredChunk]]) -> list[Buffer]:
        salt, rows = item
        name = vault_names.chunk_pack(salt, domain)
        opener = PackOpener(self._chunk_key(domain), salt, name)
        sealed = self._store.get_ranges(name, [row.offset for row in rows], [row.stored for row in rows])
        return [opener.open(data, row.ordinal, row.raw) for data, row in zip(sealed, rows, strict=True)]

    def _read_chunks_into(self, domain: int, item: tuple[bytes, Sequence[tuple[StoredChunk, memoryview]]]) -> None:
        salt, rows = item
        name = vault_names.chunk_pack(salt, domain)
        opener = PackOpener(self._chunk_key(domain), salt, name)
        sealed = self._store.get_ranges(name, [row.offset for row, _ in rows], [row.stored for row, _ in rows])
        for data, (row, target) in zip(sealed, rows, strict=True):
            opener.open_into(data, row.ordinal, target)


def _read_packs(item: tuple[OpenedObject, list[int]]) -> list[Buffer]:
    opened, numbers = item
    return opened.read_packs(numbers)
