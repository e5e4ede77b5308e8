"""Verification: is everything there that the points need, does it open, and if not, what is lost.

The structure is checked by opening every index, which is authenticated, and by following every reference. ``data``
reads and opens packs too, all or a random share of them: every byte of a pack is authenticated. A finding names the
object, the disk and the bytes of it that are affected, and the first position whose state is. Other points stay
usable. Who has read the packs already (a scrub) says which are bad, and gets the same findings without reading them.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from farshore.formats import vault_names
from farshore.formats.base_map import INHERIT
from farshore.formats.batch import Role
from farshore.formats.chunk_pack import Hashes, decode_index
from farshore.formats.container import Kind, PackRows
from farshore.formats.record import RecordKind, payload_offsets
from farshore.formats.vault_names import DATA_TIER, SegmentName
from farshore.model.errors import Damaged, NotFound, Refused, Unsupported
from farshore.model.identifiers import BLOCK, CHUNK, SECTOR, Epoch, MachineId
from farshore.vault.keys.checking import key_finding, vault_findings
from farshore.vault.machine import MachineVault
from farshore.vault.objects.base_maps import BaseMap
from farshore.vault.objects.damage import Finding
from farshore.vault.objects.directories import Directory
from farshore.vault.objects.epochs import EpochRecord
from farshore.vault.objects.layers import Layer
from farshore.vault.objects.opening import OpenedObject, open_object, read_document
from farshore.vault.reading import points
from farshore.vault.reading.timeline import StoredLayer, StoredSegment, Timeline
from farshore.vault.stores.port import Listed
from farshore.vault.upkeep.held_packs import HeldPacks
from farshore.vault.vault import Vault

BadPacks = Mapping[str, Mapping[int, str]]
"""By object: the packs that do not open, and why."""


@dataclass
class Report:
    """``objects`` and ``packs`` were opened; sizes in bytes."""

    objects: int = 0
    packs: int = 0
    bytes_read: int = 0
    findings: list[Finding] = field(default_factory=list)


def verify(
    vault: Vault,
    *,
    data: bool = False,
    sample: float = 1.0,
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
    known: BadPacks | None = None,
    light: bool = False,
) -> Report:
    """Check a whole vault. ``sample`` is the share of packs read with ``data``; ``known`` packs are bad without being
    read. ``light``: of segments and layers that another layer stands for, only that they are there in their size; a
    scrub opens them in its turn. Raises Unreachable, Forbidden only."""
    return _Verification(vault, data, sample, seed, progress or (lambda _name: None), known or {}, light).run()


class _Verification:
    def __init__(
        self,
        vault: Vault,
        data: bool,
        sample: float,
        seed: int,
        progress: Callable[[str], None],
        known: BadPacks,
        light: bool,
    ) -> None:
        self._light = light and not data
        self._vault, self._data, self._sample, self._progress = vault, data, sample, progress
        self._known = known
        self._random = random.Random(seed)
        self._report = Report()
        self._lost: dict[str, set[int] | None] = {}
        """Chunk packs that are damaged: the ordinals of their chunks, or None for all of them."""
        self._missing: set[str] = set()
        self._held = HeldPacks()

    def run(self) -> Report:
        for item in self._vault.store.list(vault_names.CHUNKS):
            self._chunk_pack(item)
        for item in self._vault.store.list(vault_names.DIRECTORIES):
            self._directory(item)
        self._report.findings.extend(vault_findings(self._vault))
        erased = self._vault.erased()
        for machine_id in self._vault.machines():
            lost = key_finding(self._vault, machine_id)
            if lost is not None and machine_id in erased:
                continue
            if lost is not None:
                self._report.findings.append(lost)
            try:
                machine = self._vault.machine(machine_id).with_one_listing()
                timeline = machine.stored.timeline()
            except (Damaged, Refused) as error:
                if lost is None:
                    self._note(vault_names.machine_folder(machine_id), error.message, machine_id)
                continue
            self._machine(machine, timeline)
        return self._report

    def _documents(self, machine: MachineVault, timeline: Timeline) -> None:
        for epoch, error in sorted(timeline.damaged.items()):
            name = vault_names.epoch(machine.id, epoch)
            self._note(name, error.message, machine.id, position=f"{epoch}:0")
        for epoch in sorted(timeline.epochs):
            try:
                parent = timeline.chain(epoch)[0].parent
                if parent is not None:
                    timeline.cover(parent.epoch, parent.sequence)
            except (Damaged, NotFound) as error:
                problem = f"What it rests on is lost: {error.message}"
                self._note(vault_names.epoch(machine.id, epoch), problem, machine.id, position=f"{epoch}:0")
        self._read_all(machine, "rebased/", EpochRecord.from_fields)
        self._read_all(machine, "points/", points.from_fields)
        try:
            if timeline.epochs:
                machine.stored.description()
        except (Damaged, Refused) as error:
            self._note(vault_names.machine_folder(machine.id) + "descriptions/", error.message, machine.id)

    def _read_all(self, machine: MachineVault, folder: str, decode: Callable[[dict[str, Any], str], object]) -> None:
        for item in machine.folder.objects(folder):
            try:
                decode(read_document(self._vault.store, machine.key, item.name), item.name)
            except NotFound:
                continue
            except (Damaged, Refused) as error:
                self._note(item.name, error.message, machine.id)

    def _machine(self, machine: MachineVault, timeline: Timeline) -> None:
        self._documents(machine, timeline)
        listed = {item.name: item.size for item in machine.folder.objects()}
        for epoch in sorted(timeline.epochs):
            record = timeline.epochs[epoch]
            gap = timeline.gap(epoch)
            if gap is not None:
                # Behind a hole, or told of by the document alone, which was stored after these records.
                name = vault_names.epoch(machine.id, epoch) if gap.behind is None else gap.behind.object.name
                problem = f"Records {gap.begin} to {gap.end - 1} before it are missing."
                self._note(name, problem, machine.id, position=f"{epoch}:{gap.begin}")
            named = self._layers(machine, timeline, epoch, listed)
            for role in (Role.JOURNAL, Role.BASE):
                start = self._journal_start(timeline, epoch) if role is Role.JOURNAL else 1
                for stored in timeline.run(epoch, role, start).chain:
                    if not self._light or stored.object.name not in named or stored.object.name in self._known:
                        self._segment(machine, stored)
            if timeline.run(epoch, Role.BASE).end < record.base_end:
                problem = f"Base records {timeline.run(epoch, Role.BASE).end} to {record.base_end - 1} are missing."
                self._note(f"epoch {epoch}", problem, machine.id, position=f"{epoch}:0")
            self._base_maps(machine, record)

    def _journal_start(self, timeline: Timeline, epoch: Epoch) -> int:
        """Where single segments begin to count: behind what retention has merged."""
        return max((one.layer.end for one in timeline.data_layers(epoch)), default=1)

    def _segment(self, machine: MachineVault, stored: StoredSegment) -> None:
        name = stored.segment
        try:
            opened, index = machine.stored.segment_index(stored)
        except (Damaged, Refused) as error:
            self._note(stored.object.name, error.message, machine.id, position=f"{name.epoch}:{name.first}")
            return
        offsets = payload_offsets(index.records)
        for number, problem in self._packs(opened):
            begin, end = int(opened.starts[number]), int(opened.starts[number + 1])
            touched = np.flatnonzero((offsets[:-1] < end) & (offsets[1:] > begin))
            for place in touched[index.records["kind"][touched] == RecordKind.WRITE].tolist():
                row = index.records[place]
                start = int(row["sector"]) * SECTOR
                position = f"{name.epoch}:{index.first_sequence + place if name.role is Role.JOURNAL else 0}"
                length = int(row["sectors"]) * SECTOR
                self._note(opened.name, problem, machine.id, int(row["disk"]), start, start + length, position)

    def _layers(
        self, machine: MachineVault, timeline: Timeline, epoch: Epoch, listed: Mapping[str, int]
    ) -> dict[str, int]:
        """Check an epoch's layers, and that what they name is there; return its names and sizes."""
        found: dict[str, int] = {}
        every = timeline.layers(epoch)
        for stored in every:
            if self._light and stored.object.name not in self._known and _stands_for(every, stored):
                continue
            found.update(self._layer(machine, stored, listed))
        for name, size in found.items():
            if listed.get(name, size) != size:
                first = SegmentName.parse(name)
                position = f"{epoch}:{0 if first is None else first.first}"
                self._note(name, f"It has {listed[name]} bytes instead of {size}.", machine.id, position=position)
        return found

    def _layer(self, machine: MachineVault, stored: StoredLayer, listed: Mapping[str, int]) -> dict[str, int]:
        """Check one layer; return names and sizes of what it names."""
        position = f"{stored.layer.epoch}:{stored.layer.end - 1}"
        try:
            layer = machine.stored.layer(stored)
        except (Damaged, Refused) as error:
            self._note(stored.object.name, error.message, machine.id, position=position)
            return {}
        for name in sorted(machine.stored.source_names(layer) - listed.keys()):
            self._note(name, f"It is missing; {stored.object.name} needs it.", machine.id, position=position)
        for number, problem in self._packs(layer.opened):
            page = layer.index.pages[number]
            start, end = int(page["block"]) * BLOCK, (int(page["last"]) + 1) * BLOCK
            self._note(stored.object.name, problem, machine.id, int(page["disk"]), start, end, position)
        merged = stored.layer.tier == DATA_TIER
        for row in range(len(layer.sources)):
            name = machine.stored.source_name(stored.layer.epoch, layer.sources[row])
            # The segments behind an index layer are walked by themselves.
            if name not in listed or not (merged or any(layer.sources[row]["salt"].tobytes())):
                continue
            if self._data or name in self._known:
                self._layer_source(machine, layer, row, position)
        return {machine.stored.source_name(stored.layer.epoch, source): int(source["size"]) for source in layer.sources}

    def _layer_source(self, machine: MachineVault, layer: Layer, row: int, position: str) -> None:
        """What a merged layer took from an object whose packs do not all open: block by block."""
        try:
            source = machine.stored.layer_source(layer, row)
            bad = dict(self._packs(source))
            for disk in layer.disks() if bad else []:
                index = layer.whole(disk, machine.cache)
                mine = np.flatnonzero(index.entries["source"] == row)
                offsets = index.entries["offset"][mine].astype(np.int64)
                sizes = np.bitwise_count(index.entries["mask"][mine]).astype(np.int64) * SECTOR
                for number, problem in bad.items():
                    touched = (offsets < source.starts[number + 1]) & (offsets + sizes > source.starts[number])
                    for block in index.blocks[mine[touched]].tolist():
                        start = block * BLOCK
                        self._note(source.name, problem, machine.id, disk, start, start + BLOCK, position)
        except (Damaged, Refused) as error:
            name = machine.stored.source_name(layer.name.epoch, layer.sources[row])
            self._note(name, error.message, machine.id, position=position)

    def _base_maps(self, machine: MachineVault, record: EpochRecord) -> None:
        for disk in record.disks:
            if not disk.mapped:
                continue
            position = f"{record.epoch}:0"
            name = vault_names.base_map(machine.id, record.epoch, disk.number, disk.map)
            try:
                base = machine.stored.base_map(record.epoch, disk.number, disk.map)
            except (Damaged, Refused) as error:
                self._note(name, error.message, machine.id, disk.number, 0, disk.size, position)
                continue
            self._report.objects += 1
            names = base.pack_names()
            held = self._held.contains(base.index.domain, base.index.salts)
            bad = {row for row, pack in enumerate(names) if not held[row] or pack in self._lost}
            for pack in sorted({names[row] for row in bad if not held[row]} - self._missing):
                self._missing.add(pack)
                self._note(pack, "It is missing.")
            if bad or self._data or name in self._known:
                pages = self._data or name in self._known
                for chunk, problem in self._bad_chunks(base, names, bad, hashes=pages):
                    start = chunk * CHUNK
                    end = min(disk.size, start + CHUNK)
                    self._note(name, problem, machine.id, disk.number, start, end, position)

    def _bad_chunks(self, base: BaseMap, names: list[str], bad: Set[int], *, hashes: bool) -> Iterator[tuple[int, str]]:
        """Chunks of a map that cannot be read, and why."""
        size = base.index.page_chunks
        for page in range(-(-base.chunks // size)):
            try:
                entries = base.entries(page)
                if hashes:
                    base.hashes(page)
            except Damaged as error:
                yield from ((chunk, error.message) for chunk in range(page * size, min((page + 1) * size, base.chunks)))
                continue
            named = np.flatnonzero((entries["pack"] < INHERIT) & np.isin(entries["pack"], sorted(bad)))
            for place in named.tolist():
                pack = names[int(entries["pack"][place])]
                lost = self._lost.get(pack)
                if lost is None or int(entries["ordinal"][place]) in lost:
                    yield page * size + place, f"Its chunk in {pack} cannot be read."

    def _chunk_pack(self, item: Listed) -> None:
        domain = vault_names.chunk_domain(item.name)
        salt = vault_names.chunk_salt(item.name, domain)
        contents: tuple[Hashes, PackRows] | None = None
        try:
            key = self._vault.chunk_key_of(item.name)
        except (Damaged, Refused):  # the key is noted, once
            self._lost[item.name] = None
        else:
            try:
                opened = open_object(self._vault.store, key, item.name, item.size, Kind.CHUNK_PACK)
                contents = decode_index(opened.index, item.name)
            except (Damaged, Refused) as error:
                self._lost[item.name] = None
                self._note(item.name, error.message)
        if salt is not None:
            self._held.add(domain, salt, contents)
        if contents is None:
            return
        bad = [(int(opened.packs["ordinal"][number]), problem) for number, problem in self._packs(opened)]
        if bad:
            self._lost[item.name] = {ordinal for ordinal, _ in bad}
            self._note(item.name, f"{len(bad)} chunks cannot be read. {bad[0][1]}")

    def _directory(self, item: Listed) -> None:
        """Nothing is lost with a directory; one that says something else than the packs would be relied on."""
        domain = vault_names.directory_domain(item.name)
        if domain is None:
            return
        try:
            key = self._vault.chunk_key_of(item.name)
        except (Damaged, Refused):
            return
        try:
            found = Directory(self._vault.store, key, item.name, item.size)
            there = self._held.contains(domain, found.salts)
            wrong = sum(not self._held.agrees(domain, one) for one in found.contents(there))
        except (NotFound, Unsupported):  # written anew since, or by a newer release
            return
        except (Damaged, Refused) as error:
            self._note(item.name, f"{error.message} The next upkeep replaces it.")
            return
        self._report.objects += 1
        if wrong:
            self._note(item.name, f"It says something else than {wrong} packs themselves. Delete it.")

    def _packs(self, opened: OpenedObject) -> Iterator[tuple[int, str]]:
        """Packs of an object that do not open, and why. Reads none without ``data``."""
        self._progress(opened.name)
        self._report.objects += 1
        yield from ((number, why) for number, why in sorted(self._known.get(opened.name, {}).items()) if number >= 0)
        if not self._data or opened.name in self._known:
            return
        for number in range(len(opened.packs)):
            if self._sample < 1 and self._random.random() >= self._sample:
                continue
            try:
                self._report.bytes_read += int(opened.packs["stored"][number])
                self._report.packs += 1
                opened.read_pack(number)
            except (Damaged, NotFound) as error:
                yield number, error.message

    def _note(
        self,
        name: str,
        problem: str,
        machine: MachineId | str = "",
        disk: int = -1,
        start: int = -1,
        end: int = -1,
        position: str = "",
    ) -> None:
        last = self._report.findings[-1] if self._report.findings else None
        if (
            last is not None
            and (last.object, last.machine, last.disk, last.end) == (name, machine, disk, start)
            and start >= 0
        ):
            self._report.findings[-1] = Finding(name, last.problem, machine, disk, last.start, end, last.from_position)
        else:
            self._report.findings.append(Finding(name, problem, machine, disk, start, end, position))


def _stands_for(layers: Sequence[StoredLayer], one: StoredLayer) -> bool:
    """Whether a layer of a higher tier names all that this one names."""
    mine = one.layer
    return any(
        other.layer.tier > mine.tier and other.layer.first <= mine.first and mine.end <= other.layer.end
        for other in layers
    )
