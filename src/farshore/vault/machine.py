"""One machine in a vault: what is written of it and what is read back.

Writing: descriptions, segments, base copies, epochs and points, each a conditional or idempotent put. Reading:
points, and a disk at any position. An epoch's states become visible with its document, which is written last.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator, Set
from dataclasses import dataclass
from functools import partial
from typing import Sequence as Several

import numpy as np
import numpy.typing as npt

from farshore.formats import vault_names
from farshore.formats.batch import Buffer, Role
from farshore.formats.container import Kind
from farshore.formats.layer import Table
from farshore.formats.record import Records
from farshore.formats.segment import SegmentIndex, decode_index
from farshore.formats.vault_names import SegmentName
from farshore.model.errors import Damaged, NotFound
from farshore.model.identifiers import DiskNumber, Epoch, MachineId, PointId, Sequence
from farshore.model.machine import MachineDescription
from farshore.model.point import PointKind, RecoveryPoint
from farshore.model.ports import BlockSource
from farshore.model.position import Position
from farshore.vault.objects import damage, differences, machine_descriptions
from farshore.vault.objects.base_copy import BaseCopy
from farshore.vault.objects.base_maps import BaseMap
from farshore.vault.objects.chunks import ChunkStore
from farshore.vault.objects.differences import Differing
from farshore.vault.objects.epochs import EpochRecord
from farshore.vault.objects.layers import Layer
from farshore.vault.objects.opening import OpenedObject, open_object, read_document, seal_document
from farshore.vault.objects.sealing import SealingKey
from farshore.vault.objects.segments import SealedBatch, SegmentBuilder, SegmentObject
from farshore.vault.reading import points
from farshore.vault.reading.blocks import Level
from farshore.vault.reading.cache import PackCache, SourceCache
from farshore.vault.reading.fetch import Fetcher
from farshore.vault.reading.leases import CLOCKS, Lease, LeaseKind, live_leases, take_lease
from farshore.vault.reading.levels import EntryLevel, MapLevel, layer_level, segments_level
from farshore.vault.reading.parent_disk import ParentDisk
from farshore.vault.reading.points import AtTime, Choice, Latest, Named
from farshore.vault.reading.reader_threads import ReaderThreads
from farshore.vault.reading.timeline import Piece, StoredLayer, StoredSegment, Timeline, load_timeline
from farshore.vault.reading.view import DiskView
from farshore.vault.stores.listed_once import ListedOnce
from farshore.vault.stores.port import Listed, Store
from farshore.vault.upkeep.condemned import read_condemned

_READERS = 8


@dataclass(frozen=True)
class Shared:
    """What the machines of one vault share."""

    upkeep_key: SealingKey
    chunks: Callable[[int, MachineId], ChunkStore]
    """By deduplication domain, and the machine that it is asked for."""
    cache: PackCache


class MachineVault:
    """Made by Vault.machine. Safe to use from several threads."""

    def __init__(
        self,
        store: Store,
        machine: MachineId,
        key: SealingKey,
        shared: Shared,
    ) -> None:
        self.id = machine
        self._store, self.key = store, key
        self._upkeep_key, self._shared, self.cache = shared.upkeep_key, shared, shared.cache
        self._sources = SourceCache()

    def with_one_listing(self) -> MachineVault:
        """Return the same machine for one look at it: its folder is listed once, when it is asked for first."""
        store = ListedOnce(self._store, vault_names.machine_folder(self.id))
        return MachineVault(store, self.id, self.key, self._shared)

    def objects(self, folder: str = "") -> Iterator[Listed]:
        """Return what the vault holds of it below a folder of its own (``points/``), or in all."""
        return self._store.list(vault_names.machine_folder(self.id) + folder)

    # Writing

    def segment_builder(self, epoch: Epoch, role: Role) -> SegmentBuilder:
        """Return a builder for the next segment of a stream."""
        return SegmentBuilder(self.key, self.id, epoch, role)

    def sealed_batch(self, data: Buffer) -> SealedBatch:
        """Return a sealed batch back from a spool. Raises Damaged, WrongKey, Unsupported."""
        return SealedBatch.from_buffer(data, self.key)

    def payload_of(self, batch: SealedBatch) -> bytes:
        """Return the payload of a sealed batch, opened. Raises Damaged."""
        return batch.payload(self.key)

    def recovered_builder(self, batches: Several[SealedBatch]) -> SegmentBuilder:
        """Return a builder over neighbouring sealed batches of one salt, epoch and role."""
        return SegmentBuilder.from_sealed(self.key, batches)

    def put_segment(self, segment: SegmentObject) -> None:
        """Store a segment; one with the same name holds the same records, so finding it there is success."""
        self._store.put_if_absent(segment.name, segment.buffers)

    def put_point(self, point: RecoveryPoint) -> None:
        """Store a point. Its records must be durable in the vault before."""
        name = vault_names.point(self.id, point.position, point.id)
        document = seal_document(self.key, name, points.to_fields(point))
        self._store.put_if_absent(document.name, document.buffers)

    def put_description(self, description: MachineDescription, number: int) -> None:
        """Store a version of the machine's description; ``number`` grows: ns since 1970 UTC, or the epoch."""
        name = vault_names.description(self.id, number)
        document = seal_document(self.key, name, machine_descriptions.to_fields(description))
        self._store.put_if_absent(document.name, document.buffers)

    def put_epoch(self, record: EpochRecord) -> bool:
        """Make an epoch visible: its base maps and overlay must be durable. False if it was visible already."""
        name = vault_names.epoch(self.id, record.epoch)
        document = seal_document(self.key, name, record.to_fields())
        return self._store.put_if_absent(document.name, document.buffers)

    def put_rebased(self, record: EpochRecord) -> bool:
        """Say an epoch again, resting on nothing: its new base maps must be durable. False if another has."""
        name = vault_names.rebased(self.id, record.epoch)
        document = seal_document(self.key, name, record.to_fields())
        return self._store.put_if_absent(document.name, document.buffers)

    def put_object(self, name: str, buffers: list[Buffer]) -> None:
        """Store a layer or another sealed object; one with the same name says the same."""
        self._store.put_if_absent(name, buffers)

    def merging(self) -> Lease | None:
        """Return a lease under which data objects may be written before the layer that names them."""
        return take_lease(self._store, self._upkeep_key, LeaseKind.MERGE, self.id)

    def base_copy(
        self, epoch: Epoch, disks: Several[tuple[DiskNumber, int]], parent: Position | None, domain: int = 0
    ) -> BaseCopy:
        """Begin the copy of an epoch's base by chunk hashes; ``disks`` lists numbers and sizes in bytes. Chunks are
        found and stored in the deduplication domain ``domain``.

        Chunks in objects that are known to be damaged count as missing. Raises NotFound or Damaged where the parent
        cannot be opened, or is in another domain: the copy can then be made without it.
        """
        chunks = self._chunks(domain)
        lease = take_lease(self._store, self._upkeep_key, LeaseKind.COPY, self.id, parent)
        sources: dict[DiskNumber, ParentDisk] = {}
        try:
            bad = self._shun_chunks(chunks)
            if parent is not None:
                timeline = self.timeline()
                record = timeline.record(parent.epoch)
                if record.domain != domain:
                    raise NotFound(
                        f"Epoch {parent.epoch} of machine {self.id} is in another deduplication domain.",
                        remedy="Copy without a parent.",
                    )
                for number, _ in disks:
                    if record.disk(number) is not None:
                        sources[number] = ParentDisk(self._view(timeline, parent, number), chunks.keys.hash, bad)
        except BaseException:
            for source in sources.values():
                source.close()
            if lease is not None:
                lease.release()
            raise
        return BaseCopy(self._store, self.key, self.id, epoch, disks, parent, chunks, sources, lease)

    def base_again(self, epoch: Epoch) -> tuple[BaseCopy, EpochRecord, dict[DiskNumber, DiskView]]:
        """Begin to write an epoch's base anew, without a parent: the copy to be made, the epoch's document, and each
        disk as it is below the epoch's overlay and journal. Raises NotFound, Damaged, the store's errors."""
        lease = take_lease(self._store, self._upkeep_key, LeaseKind.COPY, self.id, Position(epoch, Sequence(0)))
        views: dict[DiskNumber, DiskView] = {}
        try:
            timeline = self.timeline()
            record, *below = timeline.chain(epoch)
            chunks = self._chunks(record.domain)
            self._shun_chunks(chunks)
            chain = [dataclasses.replace(record, base_end=Sequence(1)), *below]  # the overlay lies over the base
            for disk in record.disks:
                views[disk.number] = self._view(timeline, Position(epoch, Sequence(0)), disk.number, chain=chain)
        except BaseException:
            for view in views.values():
                view.close()
            if lease is not None:
                lease.release()
            raise
        disks = [(disk.number, disk.size) for disk in record.disks]
        copy = BaseCopy(self._store, self.key, self.id, epoch, disks, None, chunks, {}, lease)
        return copy, record, views

    # Reading

    def timeline(self, *, with_condemned: bool = False) -> Timeline:
        """Return what is there now; for upkeep ``with_condemned``: what a collector has condemned too, and Damaged if a
        document cannot be read, for upkeep must not take its epoch for dead. Raises the store's errors, WrongKey."""
        condemned: Set[str] = set()
        if not with_condemned:
            folder = vault_names.machine_folder(self.id)
            condemned = {name for name in read_condemned(self._store, self._upkeep_key) if name.startswith(folder)}
        return load_timeline(
            self._store, self.key, self.id, self.layer, condemned, self._copied_since, whole=with_condemned
        )

    def _copied_since(self) -> float:
        """When the last copy of this machine that is under way began, ns, less what clocks may differ by."""
        leases = live_leases(self._store, self._upkeep_key, time.time_ns(), tidy=False)
        copies = [lease for lease in leases if lease.kind is LeaseKind.COPY and lease.machine == self.id]
        return max((lease.began - CLOCKS for lease in copies), default=float("inf"))

    def points(
        self,
        after: int | None = None,
        before: int | None = None,
        limit: int | None = None,
        timeline: Timeline | None = None,
    ) -> list[RecoveryPoint]:
        """Return recovery points by position, oldest first; times (ns) bound them half-open; ``limit`` keeps the
        newest."""
        timeline = timeline or self.timeline()
        found = points.crash_consistent(timeline)
        found += [point for point in self._stored_points(timeline) if points.recoverable(timeline, point.position)]
        found.sort(key=lambda point: (point.position, point.kind is not PointKind.CRASH_CONSISTENT))
        chosen = [
            point
            for point in found
            if (after is None or point.time >= after) and (before is None or point.time < before)
        ]
        return chosen if limit is None else chosen[max(0, len(chosen) - limit) :]

    def latest(self, timeline: Timeline | None = None) -> RecoveryPoint:
        """Return the newest point. Raises NotFound if there is none. Reads no more than it must."""
        return self._latest(timeline or self.timeline())

    def anything_after(self, position: Position) -> bool:
        """Return whether a segment is stored that follows ``position``, in its epoch or a later one: one listing."""
        folder = vault_names.segments_folder(self.id, position.epoch, Role.JOURNAL)
        after = vault_names.segments_before(self.id, position.epoch, Role.JOURNAL, position.sequence)
        for item in self._store.list(vault_names.all_segments(self.id), after=after):
            name = SegmentName.parse(item.name)
            if not item.name.startswith(folder) or (name is not None and name.end > position.sequence + 1):
                return True
        return False

    def newest_point(self, epoch: Epoch) -> RecoveryPoint | None:
        """Return the newest stored point of an epoch whose records are all there, or None if there is none."""
        timeline = self.timeline()
        return self._newest_point(timeline, epoch, timeline.last(epoch))

    def resolve(self, choice: Choice) -> RecoveryPoint:
        """Return the state that ``choice`` asks for. Raises NotFound, Damaged."""
        timeline = self.timeline()
        if isinstance(choice, Position):
            points.check_recoverable(timeline, choice)
            return self._at_position(timeline, choice)
        if isinstance(choice, AtTime):
            return self._at_time(timeline, choice.time)
        if choice is Latest.ANY:
            return self._latest(timeline)
        listed = self.points(timeline=timeline)
        if isinstance(choice, Named):
            position = points.parse_position(choice.text)
            if position is not None and not any(point.id == choice.text for point in listed):
                points.check_recoverable(timeline, position)
                return self._at_position(timeline, position)
            return points.find(listed, choice.text)
        found = points.newest(listed, PointKind.APP_CONSISTENT)
        points.check_none_lost(timeline, found)
        return found

    def open(self, position: Position, disk: DiskNumber) -> BlockSource:
        """Return one disk at a position, which stays in the vault until the source is closed.

        Raises NotFound, Damaged (a missing, cut or altered object), WrongKey.
        """
        return self._opened(position, disk)[0]

    def comparable(self, position: Position, disk: DiskNumber) -> tuple[DiskView, bytes]:
        """Open a disk as ``open`` does, and return the key of its chunk hashes too."""
        view, record = self._opened(position, disk)
        return view, self._chunks(record.domain).keys.hash

    def _opened(self, position: Position, disk: DiskNumber) -> tuple[DiskView, EpochRecord]:
        # The lease comes before the listing that is relied on: see collection.
        lease = take_lease(self._store, self._upkeep_key, LeaseKind.READ, self.id, position)
        try:
            timeline = self.timeline()
            points.check_recoverable(timeline, position)
            return self._view(timeline, position, disk, lease), timeline.record(position.epoch)
        except BaseException:
            if lease is not None:
                lease.release()
            raise

    def disks(self, position: Position, timeline: Timeline | None = None) -> dict[DiskNumber, int]:
        """Return the disks at a position and their sizes in bytes. Raises NotFound."""
        record = (timeline or self.timeline()).record(position.epoch)
        return {disk.number: disk.size for disk in record.disks}

    def machine_description(self, position: Position | None = None) -> MachineDescription:
        """Return the machine as it was at a position, or is now. Raises NotFound."""
        folder = vault_names.machine_folder(self.id) + "descriptions/"
        names = [item.name for item in self._store.list(folder)]
        if not names:
            raise NotFound(f"The vault holds no description of machine {self.id}.", remedy="Run `farshore vault ls`.")
        name = names[-1]
        if position is not None:
            number = self.timeline().record(position.epoch).description
            wanted = vault_names.description(self.id, number)
            name = wanted if wanted in names else name
        return machine_descriptions.from_fields(read_document(self._store, self.key, name), name)

    # Proofs

    def equal_chunks(
        self, position: Position, disk: DiskNumber, chunks: npt.NDArray[np.int64], hashes: npt.NDArray[np.uint8]
    ) -> npt.NDArray[np.bool_]:
        """Return which of the disk's ``chunks`` (sorted) have these ``hashes``, shape (n, 32), at ``position``. One in
        an object that is known to be damaged has not. Raises NotFound, Damaged (the state cannot be opened at all)."""
        damaged = {one.object for one in damage.listed(self._store, self._upkeep_key)}
        view, record = self._opened(position, disk)
        with contextlib.closing(view):
            hash_key = self._chunks(record.domain).keys.hash
            return differences.equal_chunks(view, hash_key, damaged, chunks, hashes)

    def stored_chunk(self, position: Position, disk: DiskNumber, chunk: int) -> bytes | None:
        """Return a chunk at ``position``, or None if it cannot be read. Raises NotFound, Damaged."""
        view, _ = self._opened(position, disk)
        with contextlib.closing(view):
            return differences.read_chunk(view, chunk)

    def put_difference(self, found: Differing) -> None:
        """Keep a chunk that differs from the machine's disk."""
        differences.put(self._store, self.key, self.id, found)

    def differences(self, most: int | None = None) -> list[Differing]:
        """Return what was found to differ, by position."""
        return differences.listed(self._store, self.key, self.id, most)

    # Parts of the above

    def base_map(self, epoch: Epoch, disk: DiskNumber, unique: str = "") -> BaseMap:
        """Return a stored base map. Raises NotFound, Damaged, WrongKey."""
        name = vault_names.base_map(self.id, epoch, disk, unique)
        found = BaseMap(self._open(self._listed(name), Kind.BASE_MAP))
        found.check(self.id, epoch, disk)
        return found

    def segment_index(self, stored: StoredSegment) -> tuple[OpenedObject, SegmentIndex]:
        """Return a segment's index, checked against its name. Raises NotFound, Damaged, WrongKey."""
        opened = self._open(stored.object, Kind.SEGMENT)
        index = decode_index(opened.index, opened.name)
        name = stored.segment
        if (index.machine, index.epoch, index.role, index.first_sequence, index.end_sequence) != (
            name.machine, name.epoch, name.role, name.first, name.end,
        ):  # fmt: skip
            raise Damaged(
                f"{opened.name} does not hold the records that its name says.", remedy="Run `farshore vault verify`."
            )
        return opened, index

    def stored_records(self, epoch: Epoch, role: Role, sequence: Sequence) -> tuple[Sequence, Records, bytes] | None:
        """Return the segment that holds a record: its first sequence, its records, and the payload of all of them. None
        if no segment holds it (any more). Raises NotFound, Damaged, the store's errors."""
        stored = self.timeline().around(epoch, sequence, role)
        if stored is None:
            return None
        opened, index = self.segment_index(stored)
        return index.first_sequence, index.records, b"".join(opened.read_packs(range(len(opened.packs))))

    def layer(self, stored: StoredLayer) -> Layer:
        """Return an opened layer. Raises NotFound, Damaged, WrongKey."""
        return Layer(self._open(stored.object, Kind.LAYER), stored.layer)

    def layer_source(self, layer: Layer, row: int) -> OpenedObject:
        """Return the object that a layer's entries with that source point into. Raises NotFound, Damaged, WrongKey."""
        return self.source(layer.name.epoch, layer.sources[row])

    def source(self, epoch: Epoch, source: Table) -> OpenedObject:
        """Return the object that a row of a layer's sources names. Raises NotFound, Damaged, WrongKey."""
        name = self.source_name(epoch, source)
        kind = Kind.LAYER_DATA if any(source["salt"].tobytes()) else Kind.SEGMENT
        return self._sources.load(name, lambda: self._open(Listed(name, int(source["size"]), 0), kind))

    def source_names(self, layer: Layer) -> set[str]:
        """Return the objects that a layer needs."""
        return {self.source_name(layer.name.epoch, source) for source in layer.sources}

    def source_name(self, epoch: Epoch, source: Table) -> str:
        """Return the name of the object that a row of a layer's sources names."""
        salt = source["salt"].tobytes()
        if any(salt):
            return vault_names.layer_data(self.id, salt)
        first, end, time = int(source["first"]), int(source["end"]), int(source["last_time"])
        return str(SegmentName(self.id, epoch, Role.JOURNAL, Sequence(first), Sequence(end), time))

    def _chunks(self, domain: int) -> ChunkStore:
        return self._shared.chunks(domain, self.id)

    def _chunk_key(self, domain: int) -> SealingKey:
        return self._chunks(domain).keys.seal

    def _shun_chunks(self, chunks: ChunkStore) -> set[str]:
        """For a copy that begins, under its lease: find no chunk that is damaged, condemned or deleted. Answers the
        objects that are known to be damaged."""
        bad = {one.object for one in damage.listed(self._store, self._upkeep_key)}
        shunned = bad | read_condemned(self._store, self._upkeep_key).keys()
        chunks.forget({name for name in shunned if name.startswith(vault_names.CHUNKS)})
        # What was deleted since the indexes were read must not be found either: the listing comes after the lease.
        chunks.refresh()
        return bad

    def _view(
        self,
        timeline: Timeline,
        position: Position,
        disk: DiskNumber,
        lease: Lease | None = None,
        chain: list[EpochRecord] | None = None,
    ) -> DiskView:
        """A disk at a position, over the timeline's epochs or those of the ``chain``."""
        chain = chain or timeline.chain(position.epoch)
        current = chain[0].disk(disk)
        if current is None:
            raise NotFound(
                f"Machine {self.id} has no disk {disk} at {position}.", remedy="See `farshore vault points`."
            )
        threads = ReaderThreads(_READERS, thread_name_prefix="vault-read")
        try:
            fetcher = Fetcher(self._store, self._chunk_key, self.cache, threads)
            levels: list[Level] = []
            last = position.sequence
            for record in chain:
                levels.extend(self._levels(timeline, record, last, disk, fetcher, threads))
                if record.parent is not None:
                    last = record.parent.sequence
            return DiskView(f"disk {disk} of machine {self.id} at {position}", current.size, levels, threads, lease)
        except NotFound as cause:
            threads.shutdown(wait=False, cancel_futures=True)
            raise Damaged(
                f"Position {position} of machine {self.id} cannot be opened: {cause.message}",
                remedy="Choose another point; run `farshore vault verify` to see which other points are affected.",
            ) from cause
        except BaseException:
            threads.shutdown(wait=False, cancel_futures=True)
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
        opened = list(threads.map(self._open_piece, pieces))
        waiting: list[tuple[Piece, OpenedObject, SegmentIndex]] = []
        for piece, found in zip(pieces, opened, strict=True):
            if isinstance(found, Layer):
                levels.extend(segments_level(waiting, disk, fetcher))
                waiting = []
                levels.append(layer_level(found, disk, partial(self.layer_source, found), fetcher))
            else:
                waiting.append((piece, *found))
        levels.extend(segments_level(waiting, disk, fetcher))
        for level in levels:
            level.epoch = record.epoch
        known = record.disk(disk)
        if known is None or not known.mapped:
            return [*levels[::-1]]
        return [*levels[::-1], MapLevel(self.base_map(record.epoch, disk, known.map), fetcher)]

    def _open_piece(self, piece: Piece) -> Layer | tuple[OpenedObject, SegmentIndex]:
        if isinstance(piece.stored, StoredLayer):
            return self.layer(piece.stored)
        return self.segment_index(piece.stored)

    def _listed(self, name: str) -> Listed:
        folder = name.rpartition("/")[0] + "/"
        for item in self._store.list(folder):
            if item.name == name:
                return item
        raise NotFound(f"{name} is not in the vault.", remedy="Run `farshore vault verify`.")

    def _open(self, item: Listed, kind: Kind) -> OpenedObject:
        return open_object(self._store, self.key, item.name, item.size, kind)

    def _stored_points(self, timeline: Timeline) -> list[RecoveryPoint]:
        """Points with a document; those that do not open are left out, unless the timeline is a whole one."""
        names = [item.name for item in self._store.list(vault_names.points_folder(self.id))]
        with ReaderThreads(_READERS) as readers:
            found = list(readers.map(self._stored_point, names))
        for one in found:
            if isinstance(one, Damaged) and timeline.whole:
                raise one
        return [one for one in found if isinstance(one, RecoveryPoint)]

    def _stored_point(self, name: str) -> RecoveryPoint | Damaged:
        try:
            return points.from_fields(read_document(self._store, self.key, name), name)
        except Damaged as error:
            return error

    def _latest(self, timeline: Timeline) -> RecoveryPoint:
        newest_first = (self._newest_of(timeline, epoch) for epoch in sorted(timeline.epochs, reverse=True))
        found = next((one for one in newest_first if one is not None), None)
        points.check_none_lost(timeline, found)
        if found is None:
            raise NotFound("The vault holds no recovery point of this machine.", remedy="Wait for the first one.")
        return found

    def _newest_of(self, timeline: Timeline, epoch: Epoch) -> RecoveryPoint | None:
        """The newest state of an epoch, or None if it has none, or what it rests on is lost."""
        if not points.founded(timeline, epoch):
            return None
        record = timeline.epochs[epoch]
        sequence, time = timeline.newest(epoch) or (Sequence(0), record.time)
        if record.only_points:
            return self._newest_point(timeline, epoch, sequence)
        if sequence < record.consistent_from:
            return None
        position = Position(epoch, sequence)
        return self._point_at(position) or points.crash_point(self.id, position, time)

    def _newest_point(self, timeline: Timeline, epoch: Epoch, last: Sequence) -> RecoveryPoint | None:
        known = [one for one in timeline.marked(epoch) if timeline.record(epoch).consistent_from <= one <= last]
        return self._point_at(Position(epoch, max(known))) if known else None

    def _point_at(self, position: Position) -> RecoveryPoint | None:
        """The stored point at a position, or None if there is none that opens."""
        prefix = vault_names.point(self.id, position, PointId("0"))[:-1]
        item = next(iter(self._store.list(vault_names.points_folder(self.id), after=prefix)), None)
        if item is None or not item.name.startswith(prefix):
            return None
        found = self._stored_point(item.name)
        return None if isinstance(found, Damaged) else found

    def _at_position(self, timeline: Timeline, position: Position) -> RecoveryPoint:
        for point in self.points(timeline=timeline):
            if point.position == position:
                return point
        stored = timeline.around(position.epoch, position.sequence)
        if stored is not None:
            _, index = self.segment_index(stored)
            upto = index.records["time_us"][: position.sequence - index.first_sequence + 1]
            return points.crash_point(self.id, position, index.base_time + 1000 * int(upto.max()))
        return points.crash_point(self.id, position, timeline.record(position.epoch).time)

    def _at_time(self, timeline: Timeline, time: int) -> RecoveryPoint:
        listed = self.points(timeline=timeline)
        if not listed:
            points.newest(listed)
        exact = points.listed_as(listed, time)
        if exact is not None:
            return exact
        newest = listed[-1]
        if time > newest.time:
            points.check_none_lost(timeline, newest)
            raise NotFound("The newest state in the vault is older than that time.", remedy="Use the latest point.")
        for begin, end in points.time_bases(listed):
            found = self._at_time_within(timeline, listed, begin, end, time)
            if found is not None:
                return found
        raise NotFound(
            "The oldest state in the vault is newer than that time.",
            remedy="Choose a point in the list: farshore vault points",
        )

    def _at_time_within(
        self, timeline: Timeline, listed: list[RecoveryPoint], begin: int, end: int, time: int
    ) -> RecoveryPoint | None:
        """The last state by ``time`` of the time base with the points ``listed[begin:end]``, or None if all is
        younger."""
        place = points.first_younger(listed, begin, end, time)
        older = listed[place - 1] if place > begin else None
        younger = listed[place] if place < end else None
        if younger is not None and (older is None or younger.position.epoch == older.position.epoch):
            # The time may lie within the segment that ends at the younger point.
            record = timeline.record(younger.position.epoch)
            stored = timeline.around(younger.position.epoch, younger.position.sequence)
            found = None if stored is None or record.only_points else self._within(record, stored, time)
            # What lies before it in its segment may have been merged with older ones, up to a state that was kept.
            if found is not None and points.recoverable(timeline, found.position):
                return found
        if older is not None and older.time < time:
            points.check_none_lost(timeline, older, None if younger is None else younger.position.epoch)
        return older

    def _within(self, record: EpochRecord, stored: StoredSegment, time: int) -> RecoveryPoint | None:
        """The last consistent state in a segment by ``time``."""
        _, index = self.segment_index(stored)
        # Up to the first record that is younger: a clock that goes back never moves a younger write before the time.
        young = np.maximum.accumulate(index.records["time_us"].astype(np.int64)) * 1000 + index.base_time > time
        count = int(np.argmax(young)) if young.any() else len(young)
        sequence = Sequence(index.first_sequence + count - 1)
        if not count or sequence < record.consistent_from:
            return None
        reached = index.base_time + 1000 * int(index.records["time_us"][:count].max())
        return points.crash_point(self.id, Position(stored.segment.epoch, sequence), reached)
