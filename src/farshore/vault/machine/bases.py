"""Begin the base of an epoch: a copy that a machine's agent makes, or one that is written anew without a parent.

Each takes its lease first and looks at the vault afterwards: see ``vault.reading.leases``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

from farshore.formats import vault_names
from farshore.model.errors import NotFound
from farshore.model.identifiers import DiskNumber, Epoch
from farshore.model.identifiers import Sequence as SequenceNumber
from farshore.model.position import Position
from farshore.vault.machine.disks import MachineDisks
from farshore.vault.machine.folder import MachineFolder
from farshore.vault.machine.stored import StoredObjects
from farshore.vault.objects.base_copy import BaseCopy
from farshore.vault.objects.chunks import ChunkStore
from farshore.vault.objects.epochs import EpochRecord
from farshore.vault.reading.leases import Lease, LeaseKind
from farshore.vault.reading.parent_disk import ParentDisk
from farshore.vault.reading.view import DiskView
from farshore.vault.upkeep.condemned import read_condemned


class MachineBases:
    """Begins the copies of a machine's bases."""

    def __init__(
        self,
        folder: MachineFolder,
        stored: StoredObjects,
        disks: MachineDisks,
        chunks: Callable[[int], ChunkStore],
    ) -> None:
        self._folder, self._stored, self._disks, self._chunks = folder, stored, disks, chunks

    def begin_copy(
        self, epoch: Epoch, disks: Sequence[tuple[DiskNumber, int]], parent: Position | None, domain: int = 0
    ) -> BaseCopy:
        """Begin the copy of an epoch's base by chunk hashes; ``disks`` lists numbers and sizes in bytes. Chunks are
        found and stored in the deduplication domain ``domain``.

        Chunks in objects that are known to be damaged count as missing. Raises NotFound or Damaged where the parent
        cannot be opened, or is in another domain: the copy can then be made without it.
        """
        chunks = self._chunks(domain)
        lease = self._folder.lease(LeaseKind.COPY, parent)
        sources: dict[DiskNumber, ParentDisk] = {}
        try:
            bad = self._shun_chunks(chunks)
            if parent is not None:
                timeline = self._stored.timeline()
                record = timeline.record(parent.epoch)
                if record.domain != domain:
                    raise NotFound(
                        f"Epoch {parent.epoch} of machine {self._folder.machine} is in another deduplication domain.",
                        remedy="Copy without a parent.",
                    )
                for number, _ in disks:
                    if record.disk(number) is not None:
                        sources[number] = ParentDisk(self._disks.view(timeline, parent, number), chunks.keys.hash, bad)
        except BaseException:
            for source in sources.values():
                source.close()
            if lease is not None:
                lease.release()
            raise
        return self._copy(epoch, disks, parent, chunks, sources, lease)

    def begin_again(self, epoch: Epoch) -> tuple[BaseCopy, EpochRecord, dict[DiskNumber, DiskView]]:
        """Begin to write an epoch's base anew, without a parent: the copy to be made, the epoch's document, and each
        disk as it is below the epoch's overlay and journal. Raises NotFound, Damaged, the store's errors."""
        beginning = Position(epoch, SequenceNumber(0))
        lease = self._folder.lease(LeaseKind.COPY, beginning)
        views: dict[DiskNumber, DiskView] = {}
        try:
            timeline = self._stored.timeline()
            record, *below = timeline.chain(epoch)
            chunks = self._chunks(record.domain)
            self._shun_chunks(chunks)
            chain = [dataclasses.replace(record, base_end=SequenceNumber(1)), *below]  # the overlay lies over the base
            for disk in record.disks:
                views[disk.number] = self._disks.view(timeline, beginning, disk.number, chain=chain)
        except BaseException:
            for view in views.values():
                view.close()
            if lease is not None:
                lease.release()
            raise
        disks = [(disk.number, disk.size) for disk in record.disks]
        return self._copy(epoch, disks, None, chunks, {}, lease), record, views

    def _copy(
        self,
        epoch: Epoch,
        disks: Sequence[tuple[DiskNumber, int]],
        parent: Position | None,
        chunks: ChunkStore,
        sources: dict[DiskNumber, ParentDisk],
        lease: Lease | None,
    ) -> BaseCopy:
        folder = self._folder
        return BaseCopy(folder.store, folder.key, folder.machine, epoch, disks, parent, chunks, sources, lease)

    def _shun_chunks(self, chunks: ChunkStore) -> set[str]:
        """For a copy that begins, under its lease: find no chunk that is damaged, condemned or deleted. Return the
        objects that are known to be damaged."""
        bad = self._folder.damaged()
        shunned = bad | read_condemned(self._folder.store, self._folder.upkeep_key).keys()
        chunks.forget({name for name in shunned if name.startswith(vault_names.CHUNKS)})
        # What was deleted since the indexes were read must not be found either: the listing comes after the lease.
        chunks.refresh()
        return bad
