"""Merging the journal between two kept points into one layer, so that what was overwritten in between can go.

The merged index names the sources that are still mostly alive as they are. Of the others the living blocks are copied
into data objects, source by source, each pack read once. States inside the merged range can no longer be opened.

Memory: about 100 bytes for each block written in the range, and one data object.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from farshore.formats import vault_names
from farshore.formats.batch import Buffer
from farshore.formats.container import PACK_LIMIT, PACK_ROW, Kind
from farshore.formats.layer import SOURCE, ZERO_SOURCE, Table
from farshore.formats.vault_names import DATA_TIER, LayerName
from farshore.model.identifiers import SECTOR, DiskNumber, Epoch, Sequence
from farshore.vault.machine import MachineVault
from farshore.vault.objects.layers import seal_layer
from farshore.vault.objects.opening import OpenedObject
from farshore.vault.objects.sealing import Sealer, concatenated
from farshore.vault.reading.block_index import BlockIndex, Part, build_index, merge
from farshore.vault.reading.timeline import StoredLayer, StoredRange, StoredSegment, Timeline
from farshore.vault.upkeep.compaction import shifted

KEEP_ALIVE = 0.7
"""A source with at least this share of its bytes alive is kept as it is."""
DATA_BYTES = 32 << 20
"""Raw bytes of a data object."""


def merge_range(machine: MachineVault, timeline: Timeline, epoch: Epoch, begin: int, end: int) -> LayerName:
    """Write one layer for the journal records ``[begin, end)``; return its name.

    Data objects come first, the layer that names them last: a crash leaves only data objects that nobody names.
    Raises Damaged where a piece is missing or altered, the store's errors.
    """
    pieces = timeline.between(epoch, begin, end)
    sources, indexes, last_time = gather(machine, pieces)
    sources, indexes = _drop_unused(*_copy_sparse(machine, epoch, sources, indexes))
    salt = secrets.token_hex(8)
    name = LayerName(machine.id, epoch, DATA_TIER, Sequence(begin), Sequence(end), last_time, salt)
    layer = seal_layer(machine.key, name, sources, indexes)
    machine.folder.store.put_if_absent(layer.name, layer.buffers)
    return name


def gather(machine: MachineVault, pieces: list[StoredRange]) -> tuple[Table, dict[DiskNumber, BlockIndex], int]:
    """Return one table of sources and one index for each disk over all pieces, and the time of the last record."""
    tables: list[Table] = []
    parts: dict[DiskNumber, list[BlockIndex]] = {}
    last_time = 0
    for piece in pieces:
        by = sum(len(table) for table in tables)
        if isinstance(piece.stored, StoredLayer):
            layer = machine.stored.layer(piece.stored)
            tables.append(layer.sources)
            found = {disk: layer.whole(disk, machine.cache) for disk in layer.disks()}
            last_time = layer.name.last_time
        else:
            table, found, last_time = _segment(machine, piece, piece.stored)
            tables.append(table)
        for disk, index in found.items():
            parts.setdefault(disk, []).append(shifted(index, by))
    return np.concatenate(tables), {disk: merge(indexes) for disk, indexes in sorted(parts.items())}, last_time


def _segment(
    machine: MachineVault, piece: StoredRange, stored: StoredSegment
) -> tuple[Table, dict[DiskNumber, BlockIndex], int]:
    index = machine.stored.segment_index(stored)[1]
    table = np.zeros(1, SOURCE)
    name = stored.segment
    for field, value in (("first", name.first), ("end", name.end), ("last_time", name.last_time)):
        table[0][field] = value
    table[0]["size"] = stored.object.size
    part = Part(0, index.records, piece.begin - index.first_sequence, piece.end - index.first_sequence)
    taken = index.records[part.begin : part.end]
    disks = [DiskNumber(int(disk)) for disk in np.unique(taken["disk"])]
    last_time = index.base_time + 1000 * int(taken["time_us"].max(initial=0))
    return table, {disk: build_index([part], disk) for disk in disks}, last_time


def _copy_sparse(
    machine: MachineVault, epoch: Epoch, sources: Table, indexes: dict[DiskNumber, BlockIndex]
) -> tuple[Table, dict[DiskNumber, BlockIndex]]:
    """Copy the living blocks of the sources that are mostly dead; entries then point into the copies."""
    disks = list(indexes)
    lengths = [len(indexes[disk].entries) for disk in disks]
    entries: Table = np.concatenate([indexes[disk].entries for disk in disks]) if disks else np.zeros(0)
    writer = _DataWriter(machine, len(sources))
    data = np.flatnonzero(entries["source"] != ZERO_SOURCE) if len(entries) else np.zeros(0, np.int64)
    order = data[np.lexsort((entries["offset"][data], entries["source"][data]))]
    edges = np.flatnonzero(np.diff(entries["source"][order].astype(np.int64))) + 1
    for group in np.split(order, edges) if len(order) else []:
        row = int(entries["source"][group[0]])
        opened = machine.stored.source(epoch, sources[row])
        sizes = np.bitwise_count(entries["mask"][group]).astype(np.int64) * SECTOR
        if int(sizes.sum()) < KEEP_ALIVE * int(opened.starts[-1]):
            begin = entries["offset"][group].astype(np.int64)
            for place, piece in zip(group.tolist(), _pieces(opened, begin, sizes), strict=True):
                entries[place]["source"], entries[place]["offset"] = writer.add(piece)
    made = writer.finish()
    splits = np.split(entries, np.cumsum(lengths)[:-1]) if disks else []
    copied = {
        disk: BlockIndex(indexes[disk].blocks, part, indexes[disk].zero_starts, indexes[disk].zero_ends)
        for disk, part in zip(disks, splits, strict=True)
    }
    return np.concatenate((sources, made)), copied


def _pieces(
    opened: OpenedObject, begin: npt.NDArray[np.int64], sizes: npt.NDArray[np.int64]
) -> Iterator[npt.NDArray[np.uint8]]:
    """The bytes ``[begin, begin + size)`` of an object's payload, in rising order; each pack is read once."""
    held: dict[int, npt.NDArray[np.uint8]] = {}
    for start, size in zip(begin.tolist(), sizes.tolist(), strict=True):
        number = int(np.searchsorted(opened.starts, start, "right")) - 1
        parts = []
        while size:
            if number not in held:
                held = {key: pack for key, pack in held.items() if key == number - 1}
                held[number] = np.frombuffer(opened.read_pack(number), np.uint8)
            within = start - int(opened.starts[number])
            part = held[number][within : within + size]
            parts.append(part)
            start, size, number = start + len(part), size - len(part), number + 1
        yield parts[0] if len(parts) == 1 else np.concatenate(parts)


def _drop_unused(sources: Table, indexes: dict[DiskNumber, BlockIndex]) -> tuple[Table, dict[DiskNumber, BlockIndex]]:
    """Only the sources that an entry names, and entries renumbered for them."""
    used = np.zeros(len(sources), np.bool_)
    for index in indexes.values():
        named = index.entries["source"]
        used[named[named != ZERO_SOURCE]] = True
    places = np.cumsum(used) - 1
    renumbered = {}
    for disk, index in indexes.items():
        if index.empty:
            continue
        entries = index.entries.copy()
        data = entries["source"] != ZERO_SOURCE
        entries["source"][data] = places[entries["source"][data]]
        renumbered[disk] = BlockIndex(index.blocks, entries, index.zero_starts, index.zero_ends)
    return sources[used], renumbered


class _DataWriter:
    """Collects blocks into data objects; the first gets ``first_row`` of the table of sources."""

    def __init__(self, machine: MachineVault, first_row: int) -> None:
        self._machine = machine
        self._row = first_row
        self._made: list[Table] = []
        self._begin()

    def add(self, piece: npt.NDArray[np.uint8]) -> tuple[int, int]:
        """Take the bytes in; return their source row and offset."""
        if self._size + len(piece) > DATA_BYTES:
            self._put()
        place = (self._row, self._size)
        self._waiting.append(piece.tobytes())
        self._waiting_size += len(piece)
        self._size += len(piece)
        if self._waiting_size >= PACK_LIMIT:
            self._seal(whole=False)
        return place

    def finish(self) -> Table:
        """Store what is left; the rows of all objects made."""
        self._put()
        return np.concatenate(self._made) if self._made else np.zeros(0, SOURCE)

    def _begin(self) -> None:
        self._sealer = Sealer(self._machine.key, Kind.LAYER_DATA)
        self._rows: list[tuple[int, int, int]] = []
        self._packs: list[Buffer] = []
        self._waiting: list[bytes] = []
        self._waiting_size = 0
        self._size = 0

    def _seal(self, *, whole: bool) -> None:
        data = b"".join(self._waiting)
        cut = len(data) if whole else len(data) // PACK_LIMIT * PACK_LIMIT
        rows, packs = self._sealer.packs(data[:cut], PACK_LIMIT)
        self._rows.extend(tuple(row) for row in rows.tolist())
        self._packs.extend(packs)
        self._waiting, self._waiting_size = [data[cut:]], len(data) - cut

    def _put(self) -> None:
        if not self._size:
            return
        self._seal(whole=True)
        name = vault_names.layer_data(self._machine.id, self._sealer.header.salt)
        table = np.array(self._rows, PACK_ROW)
        buffers = concatenated(self._sealer.header, self._packs, self._sealer.finish(name, table.tobytes(), table))
        self._machine.folder.store.put_if_absent(name, buffers)
        row = np.zeros(1, SOURCE)
        row["size"] = sum(len(buffer) for buffer in buffers)
        row["salt"] = np.void(self._sealer.header.salt)
        self._made.append(row)
        self._row += 1
        self._begin()
