"""What is stored of a machine: its timeline, and its objects, opened and checked."""

from __future__ import annotations

import time
from collections.abc import Set

from farshore.formats import vault_names
from farshore.formats.batch import Role
from farshore.formats.container import Kind
from farshore.formats.layer import Table
from farshore.formats.record import Records
from farshore.formats.segment import SegmentIndex, decode_index
from farshore.formats.vault_names import SegmentName
from farshore.model.errors import Damaged, NotFound
from farshore.model.identifiers import DiskNumber, Epoch, Sequence
from farshore.model.machine import MachineDescription
from farshore.model.position import Position
from farshore.vault.machine.folder import MachineFolder
from farshore.vault.objects import machine_descriptions
from farshore.vault.objects.base_maps import BaseMap
from farshore.vault.objects.layers import Layer
from farshore.vault.objects.opening import OpenedObject
from farshore.vault.reading.cache import SourceCache
from farshore.vault.reading.leases import CLOCKS, LeaseKind, live_leases
from farshore.vault.reading.timeline import StoredLayer, StoredRange, StoredSegment, Timeline, load_timeline
from farshore.vault.stores.port import Listed
from farshore.vault.upkeep.condemned import read_condemned


class StoredObjects:
    """Finds and opens what the vault holds of a machine."""

    def __init__(self, folder: MachineFolder) -> None:
        self._folder, self._machine = folder, folder.machine
        self._sources = SourceCache()

    def timeline(self, *, with_condemned: bool = False) -> Timeline:
        """Return what is there now; for upkeep ``with_condemned``: what a collector has condemned too, and Damaged if a
        document cannot be read, for upkeep must not take its epoch for dead. Raises the store's errors, WrongKey."""
        condemned: Set[str] = set()
        if not with_condemned:
            folder = vault_names.machine_folder(self._machine)
            known = read_condemned(self._folder.store, self._folder.upkeep_key)
            condemned = {name for name in known if name.startswith(folder)}
        return load_timeline(
            self._folder.store,
            self._folder.key,
            self._machine,
            self.layer,
            condemned,
            self._copied_since,
            whole=with_condemned,
        )

    def anything_after(self, position: Position) -> bool:
        """Return whether a segment is stored that follows ``position``, in its epoch or a later one: one listing."""
        folder = vault_names.segments_folder(self._machine, position.epoch, Role.JOURNAL)
        after = vault_names.segments_before(self._machine, position.epoch, Role.JOURNAL, position.sequence)
        for item in self._folder.store.list(vault_names.all_segments(self._machine), after=after):
            name = SegmentName.parse(item.name)
            if not item.name.startswith(folder) or (name is not None and name.end > position.sequence + 1):
                return True
        return False

    def description(self, position: Position | None = None) -> MachineDescription:
        """Return the machine as it was at a position, or is now. Raises NotFound."""
        folder = vault_names.machine_folder(self._machine) + "descriptions/"
        names = [item.name for item in self._folder.store.list(folder)]
        if not names:
            raise NotFound(
                f"The vault holds no description of machine {self._machine}.", remedy="Run `farshore vault ls`."
            )
        name = names[-1]
        if position is not None:
            number = self.timeline().record(position.epoch).description
            wanted = vault_names.description(self._machine, number)
            name = wanted if wanted in names else name
        return machine_descriptions.from_fields(self._folder.read_document(name), name)

    def base_map(self, epoch: Epoch, disk: DiskNumber, unique: str = "") -> BaseMap:
        """Return a stored base map. Raises NotFound, Damaged, WrongKey."""
        name = vault_names.base_map(self._machine, epoch, disk, unique)
        found = BaseMap(self._folder.open(self._folder.find(name), Kind.BASE_MAP))
        found.check(self._machine, epoch, disk)
        return found

    def segment_index(self, stored: StoredSegment) -> tuple[OpenedObject, SegmentIndex]:
        """Return a segment's index, checked against its name. Raises NotFound, Damaged, WrongKey."""
        opened = self._folder.open(stored.object, Kind.SEGMENT)
        index = decode_index(opened.index, opened.name)
        name = stored.segment
        if (index.machine, index.epoch, index.role, index.first_sequence, index.end_sequence) != (
            name.machine, name.epoch, name.role, name.first, name.end,
        ):  # fmt: skip
            raise Damaged(
                f"{opened.name} does not hold the records that its name says.", remedy="Run `farshore vault verify`."
            )
        return opened, index

    def records_around(self, epoch: Epoch, role: Role, sequence: Sequence) -> tuple[Sequence, Records, bytes] | None:
        """Return the segment that holds a record: its first sequence, its records, and the payload of all of them. None
        if no segment holds it (any more). Raises NotFound, Damaged, the store's errors."""
        stored = self.timeline().around(epoch, sequence, role)
        if stored is None:
            return None
        opened, index = self.segment_index(stored)
        return index.first_sequence, index.records, b"".join(opened.read_packs(range(len(opened.packs))))

    def layer(self, stored: StoredLayer) -> Layer:
        """Return an opened layer. Raises NotFound, Damaged, WrongKey."""
        return Layer(self._folder.open(stored.object, Kind.LAYER), stored.layer)

    def layer_source(self, layer: Layer, row: int) -> OpenedObject:
        """Return the object that a layer's entries with that source point into. Raises NotFound, Damaged, WrongKey."""
        return self.source(layer.name.epoch, layer.sources[row])

    def source(self, epoch: Epoch, source: Table) -> OpenedObject:
        """Return the object that a row of a layer's sources names. Raises NotFound, Damaged, WrongKey."""
        name = self.source_name(epoch, source)
        kind = Kind.LAYER_DATA if any(source["salt"].tobytes()) else Kind.SEGMENT
        return self._sources.load(name, lambda: self._folder.open(Listed(name, int(source["size"]), 0), kind))

    def source_names(self, layer: Layer) -> set[str]:
        """Return the objects that a layer needs."""
        return {self.source_name(layer.name.epoch, source) for source in layer.sources}

    def source_name(self, epoch: Epoch, source: Table) -> str:
        """Return the name of the object that a row of a layer's sources names."""
        salt = source["salt"].tobytes()
        if any(salt):
            return vault_names.layer_data(self._machine, salt)
        first, end, time = int(source["first"]), int(source["end"]), int(source["last_time"])
        return str(SegmentName(self._machine, epoch, Role.JOURNAL, Sequence(first), Sequence(end), time))

    def open_range(self, piece: StoredRange) -> Layer | tuple[OpenedObject, SegmentIndex]:
        """Return the opened layer or segment that a piece comes from. Raises NotFound, Damaged, WrongKey."""
        if isinstance(piece.stored, StoredLayer):
            return self.layer(piece.stored)
        return self.segment_index(piece.stored)

    def _copied_since(self) -> float:
        """When the last copy of this machine that is under way began, ns, less what clocks may differ by."""
        leases = live_leases(self._folder.store, self._folder.upkeep_key, time.time_ns(), tidy=False)
        copies = [lease for lease in leases if lease.kind is LeaseKind.COPY and lease.machine == self._machine]
        return max((lease.began - CLOCKS for lease in copies), default=float("inf"))
