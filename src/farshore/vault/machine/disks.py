"""Open a machine's disks as they were at a position."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from farshore.formats.segment import SegmentIndex
from farshore.model.errors import Damaged, NotFound
from farshore.model.identifiers import DiskNumber, Sequence
from farshore.model.position import Position
from farshore.vault.machine.folder import MachineFolder
from farshore.vault.machine.stored import StoredObjects
from farshore.vault.objects.chunks import ChunkStore
from farshore.vault.objects.epochs import EpochRecord
from farshore.vault.objects.layers import Layer
from farshore.vault.objects.opening import OpenedObject
from farshore.vault.objects.sealing import SealingKey
from farshore.vault.reading import points
from farshore.vault.reading.blocks import Level
from farshore.vault.reading.cache import PackCache
from farshore.vault.reading.fetch import Fetcher
from farshore.vault.reading.leases import Lease, LeaseKind
from farshore.vault.reading.levels import EntryLevel, MapLevel, layer_level, segments_level
from farshore.vault.reading.reader_threads import ReaderThreads
from farshore.vault.reading.timeline import StoredRange, Timeline
from farshore.vault.reading.view import DiskView

_READERS = 8


class MachineDisks:
    """Opens a machine's disks."""

    def __init__(
        self,
        folder: MachineFolder,
        stored: StoredObjects,
        chunks: Callable[[int], ChunkStore],
        cache: PackCache,
    ) -> None:
        self._folder, self._stored, self._chunks, self._cache = folder, stored, chunks, cache

    def open(self, position: Position, disk: DiskNumber) -> DiskView:
        """Return one disk at a position, which stays in the vault until the source is closed.

        Raises NotFound, Damaged (a missing, cut or altered object), WrongKey.
        """
        return self._opened(position, disk)[0]

    def comparable(self, position: Position, disk: DiskNumber) -> tuple[DiskView, bytes]:
        """Open a disk as ``open`` does, and return the key of its chunk hashes too."""
        view, record = self._opened(position, disk)
        try:
            return view, self._chunks(record.domain).keys.hash
        except BaseException:
            view.close()
            raise

    def sizes(self, position: Position, timeline: Timeline | None = None) -> dict[DiskNumber, int]:
        """Return the disks at a position and their sizes in bytes. Raises NotFound."""
        record = (timeline or self._stored.timeline()).record(position.epoch)
        return {disk.number: disk.size for disk in record.disks}

    def view(
        self,
        timeline: Timeline,
        position: Position,
        disk: DiskNumber,
        lease: Lease | None = None,
        chain: list[EpochRecord] | None = None,
    ) -> DiskView:
        """Return a disk at a position, over the timeline's epochs or those of the ``chain``. ``lease`` is released when
        the view is closed. Raises NotFound, Damaged, WrongKey."""
        chain = chain or timeline.chain(position.epoch)
        current = chain[0].disk(disk)
        if current is None:
            raise NotFound(
                f"Machine {self._folder.machine} has no disk {disk} at {position}.",
                remedy="See `farshore vault points`.",
            )
        threads = ReaderThreads(_READERS, thread_name_prefix="vault-read")
        try:
            fetcher = Fetcher(self._folder.store, self._chunk_key, self._cache, threads)
            levels: list[Level] = []
            last = position.sequence
            for record in chain:
                levels.extend(self._levels(timeline, record, last, disk, fetcher, threads))
                if record.parent is not None:
                    last = record.parent.sequence
            name = f"disk {disk} of machine {self._folder.machine} at {position}"
            return DiskView(name, current.size, levels, threads, lease)
        except NotFound as cause:
            threads.shutdown(wait=False, cancel_futures=True)
            raise Damaged(
                f"Position {position} of machine {self._folder.machine} cannot be opened: {cause.message}",
                remedy="Choose another point; run `farshore vault verify` to see which other points are affected.",
            ) from cause
        except BaseException:
            threads.shutdown(wait=False, cancel_futures=True)
            raise

    def _opened(self, position: Position, disk: DiskNumber) -> tuple[DiskView, EpochRecord]:
        # The lease comes before the listing that is relied on: see collection.
        lease = self._folder.lease(LeaseKind.READ, position)
        try:
            timeline = self._stored.timeline()
            points.check_recoverable(timeline, position)
            return self.view(timeline, position, disk, lease), timeline.record(position.epoch)
        except BaseException:
            if lease is not None:
                lease.release()
            raise

    def _levels(
        self,
        timeline: Timeline,
        record: EpochRecord,
        last: Sequence,
        disk: DiskNumber,
        fetcher: Fetcher,
        threads: ReaderThreads,
    ) -> list[Level]:
        """What one epoch adds, newest first: journal, overlay, base map."""
        levels: list[EntryLevel] = []
        pieces = timeline.overlay(record.epoch, record.base_end) + timeline.cover(record.epoch, last)
        opened = list(threads.map(self._stored.open_range, pieces))
        waiting: list[tuple[StoredRange, OpenedObject, SegmentIndex]] = []
        for piece, found in zip(pieces, opened, strict=True):
            if isinstance(found, Layer):
                levels.extend(segments_level(waiting, disk, fetcher))
                waiting = []
                levels.append(layer_level(found, disk, partial(self._stored.layer_source, found), fetcher))
            else:
                waiting.append((piece, *found))
        levels.extend(segments_level(waiting, disk, fetcher))
        for level in levels:
            level.epoch = record.epoch
        known = record.disk(disk)
        if known is None or not known.mapped:
            return [*levels[::-1]]
        return [*levels[::-1], MapLevel(self._stored.base_map(record.epoch, disk, known.map), fetcher)]

    def _chunk_key(self, domain: int) -> SealingKey:
        return self._chunks(domain).keys.seal
