"""The base of an epoch, as it is copied: chunks compared by hash, the missing ones taken in, maps written at the end.

Nothing of it has to survive a crash of the process that runs it: the agent compares again, and finds known what had
become durable. Memory: 48 bytes a chunk compared, but for zeroes (768 MiB for a full 1 TiB disk).
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Sequence as Several

import numpy as np
import numpy.typing as npt

from farshore.formats.base_map import INHERIT, ZERO, chunk_count
from farshore.formats.batch import Buffer
from farshore.formats.chunk_exchange import Chunks, Comparison, Verdict
from farshore.model.errors import Malformed
from farshore.model.identifiers import CHUNK, DiskNumber, Epoch, MachineId
from farshore.model.position import Position
from farshore.vault.objects.base_maps import BaseMapWriter
from farshore.vault.objects.chunks import ChunkStore
from farshore.vault.objects.epochs import EpochDisk
from farshore.vault.objects.sealing import SealingKey
from farshore.vault.reading.leases import Lease
from farshore.vault.reading.parent_disk import ParentDisk, chunk_hash
from farshore.vault.stores.port import Store


class BaseCopy:
    """One epoch's base by chunk hashes. ``compare`` and ``put`` may be called from several threads."""

    def __init__(
        self,
        store: Store,
        key: SealingKey,
        machine: MachineId,
        epoch: Epoch,
        disks: Several[tuple[DiskNumber, int]],
        parent: Position | None,
        chunks: ChunkStore,
        parents: Mapping[DiskNumber, ParentDisk],
        lease: Lease | None = None,
    ) -> None:
        self._lease = lease
        self.epoch, self.parent = epoch, parent
        self._store = store
        self._chunks = chunks
        self._writer = chunks.writer()
        self._parents = parents
        self._maps = {
            number: BaseMapWriter(
                key, machine, epoch, number, size, INHERIT if number in parents else ZERO, chunks.domain
            )
            for number, size in disks
        }
        self._touched: set[DiskNumber] = set()
        self._lock = threading.Lock()

    @property
    def domain(self) -> int:
        """The deduplication domain that chunks are found and stored in, for the epoch's document."""
        return self._chunks.domain

    def chunk_hash(self, data: Buffer) -> bytes:
        """Return the hash by which chunks are known in that domain; zeroes for a chunk of zeroes."""
        return chunk_hash(self._chunks.keys.hash, data)

    def compare(self, comparison: Comparison) -> npt.NDArray[np.uint8]:
        """Return one Verdict for each chunk; what the vault has is noted as copied. Raises Malformed, Damaged."""
        base = self._map(comparison.disk)
        hashes = comparison.hashes
        chunks = comparison.first_chunk + np.arange(len(hashes), dtype=np.int64)
        verdicts = np.full(len(hashes), Verdict.SEND, np.uint8)
        zero = ~hashes.any(axis=1)
        parent = self._parents.get(comparison.disk)
        same = np.zeros(len(hashes), np.bool_)
        if parent is not None:
            same = parent.equal(comparison.first_chunk, hashes, base.size)
            base.set_inherited(chunks[same], hashes[same])
        zero &= ~same
        base.set_zero(chunks[zero])
        rest = np.flatnonzero(~zero & ~same)
        known, locators = self._chunks.find(hashes[rest])
        base.set_stored(chunks[rest[known]], hashes[rest[known]], locators[known])
        verdicts[same] = Verdict.HAVE
        # Where the epoch stands on none, all of it is new.
        new = Verdict.HAVE if parent is None else Verdict.FOUND
        verdicts[zero] = verdicts[rest[known]] = new
        return verdicts

    def put(self, chunks: Chunks) -> None:
        """Take in chunks that were missing. Raises Damaged for a wrong hash, Malformed, the store's errors."""
        base = self._map(chunks.disk)
        rows = chunks.rows
        # Before anything of it is stored.
        if (rows["chunk"] >= chunk_count(base.size)).any() or (rows["length"] != _lengths(rows["chunk"], base)).any():
            raise Malformed(
                "A chunk lies outside its disk, or has the wrong length.",
                remedy="Begin another epoch, as the disk has changed.",
            )
        hashes = np.frombuffer(np.ascontiguousarray(rows["hash"]).tobytes(), np.uint8).reshape(-1, 32)
        locators = self._writer.add(hashes, rows["length"], chunks.payload)
        base.set_stored(rows["chunk"].astype(np.int64), hashes, locators)

    def finish(self) -> tuple[EpochDisk, ...]:
        """Make chunks and maps durable; return the disks for the epoch's document. May be repeated after an error."""
        self._writer.flush()
        for number in sorted(self._touched):
            base = self._maps[number].finish()
            # Its name is this copy's own: only a repetition of this call replaces it.
            self._store.put(base.name, base.buffers)
        return tuple(
            EpochDisk(number, base.size, number in self._touched, base.unique) for number, base in self._maps.items()
        )

    def close(self) -> None:
        """Release the replica that was compared with, and the chunks: the epoch's document must be stored before."""
        if self._lease is not None:
            self._lease.release()
        for parent in self._parents.values():
            parent.close()

    def _map(self, disk: DiskNumber) -> BaseMapWriter:
        found = self._maps.get(disk)
        if found is None:
            raise Malformed(f"Disk {disk} is not part of this epoch.", remedy="Begin another epoch with the disk.")
        with self._lock:
            self._touched.add(disk)
        return found


def _lengths(chunks: npt.NDArray[np.uint64], base: BaseMapWriter) -> npt.NDArray[np.int64]:
    """How many bytes these chunks have on the disk."""
    lengths: npt.NDArray[np.int64] = np.minimum(CHUNK, base.size - chunks.astype(np.int64) * CHUNK)
    return lengths
