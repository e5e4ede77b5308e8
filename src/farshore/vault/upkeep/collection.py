"""Garbage collection: objects that nothing kept needs are condemned, and deleted in a later run, a grace period after.

Order, which makes it safe beside readers, writers, other collectors and crashes, whatever the grace: first the list of
the condemned is read, then leases are listed, then objects. What is needed by a kept state, a leased state, an epoch
not yet complete or a merge under way is alive. The rest is written to the next version of the list, with the time at
which the walk that first found it dead ended; what was in the version read, long enough, and is still dead is doomed
there. Only who has written the version that dooms an object deletes it, listings of states before the objects that they
lead to; a collector that finds the version written by another has looked at an old list and ends. No later version
pardons.

So a reader, which takes its lease before it reads the list, is seen by the collector, or sees the condemnation. It may
go on with objects that others have merged since: while a lease lives, nothing of its machine that was condemned after
it began is deleted. A copy of a base takes its lease, then leaves condemned chunks out; while it runs, no chunk that
was condemned after it began is deleted. Nor are chunks condemned that were stored since it began, or within a grace
period: a copy that was broken off finds them when it is taken up again.

Of a machine that is damaged it cannot be told what its states need: all of it is alive, and the others are collected.
Where a base map of it cannot be read any chunk may be its own: then none is dead.
"""

from __future__ import annotations

import itertools
import time
from array import array
from collections.abc import Callable, Iterator, Mapping, Set
from dataclasses import dataclass, field

import numpy as np

from farshore.formats import vault_names
from farshore.formats.base_map import decode_index
from farshore.formats.batch import Role
from farshore.formats.container import Kind
from farshore.formats.vault_names import DATA_TIER, SegmentName
from farshore.model.errors import Damaged, FarshoreError, NotFound, Unsupported, WrongKey
from farshore.model.identifiers import Epoch, MachineId, Sequence
from farshore.model.policy import ReplicationPolicy
from farshore.model.position import Position
from farshore.vault.machine import MachineVault
from farshore.vault.objects.directories import Sizes
from farshore.vault.objects.opening import open_object
from farshore.vault.reading.leases import CLOCKS, LeaseKind, LeaseRecord, live_leases
from farshore.vault.reading.timeline import StoredLayer, Timeline
from farshore.vault.stores.port import Listed
from farshore.vault.upkeep.condemned import read_list, write_next
from farshore.vault.upkeep.retention import Plan, plan_retention
from farshore.vault.upkeep.salts import SALT_BYTES, SaltCollector, Salts, SaltSet, as_salts
from farshore.vault.vault import Vault

GRACE = 24 * 3600 * 1_000_000_000
_PORTION = 1000
_ORDER = ("layers", "points", "epochs", "rebased", "descriptions", "key", "segments", "data", "bases")
"""Deletion goes in this order within a machine: first what leads to states, then what they are made of."""


@dataclass
class Collection:
    """What a run found and did. Sizes in bytes."""

    alive: int = 0
    condemned: int = 0
    deleted: int = 0
    deleted_objects: int = 0
    alive_by_machine: dict[MachineId, int] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    """Of every dead or doomed object, by name."""
    packs: dict[int, tuple[Salts, Sizes]] = field(default_factory=dict)
    """The chunk packs that are alive, and their sizes, by deduplication domain."""
    untouched: dict[MachineId, FarshoreError] = field(default_factory=dict)
    """Machines of which everything was left, for they are damaged, and why."""
    chunks_untouched: bool = False
    """Whether chunks were left too."""


PolicyOf = Callable[[MachineId], ReplicationPolicy]
Visit = Callable[[MachineVault], None]


def collect(
    vault: Vault, policy_of: PolicyOf, grace: int = GRACE, now: int | None = None, visit: Visit | None = None
) -> Collection:
    """Return one run. ``grace`` in ns. May be stopped and repeated at any time, and run twice at once. ``visit`` is
    called with each machine that is whole, after it was looked at, while its folder is listed already; it raises
    nothing."""
    moment = time.time_ns() if now is None else now
    before = read_list(vault.store, vault.upkeep_key)
    leases = live_leases(vault.store, vault.upkeep_key, moment)
    dead, summary = find_dead(vault, policy_of, leases, moment - grace, before.doomed, visit)
    # Somebody else may be deleting what was doomed before, whatever it seems to be worth now.
    doomed = set(before.doomed & summary.sizes.keys())
    # The walk takes its time: a copy that began during it read the list without what is condemned now.
    found = time.time_ns() if now is None else now
    condemned = {name: before.objects.get(name, found) for name in dead.keys() | doomed}
    for name in dead.keys() & before.objects.keys():
        if moment - condemned[name] >= grace and not any(_relies_on(one, name, condemned[name]) for one in leases):
            doomed.add(name)
    summary.condemned = sum(summary.sizes[name] for name in condemned)
    told = not condemned and not before.objects
    if not told and write_next(vault.store, vault.upkeep_key, before, condemned, doomed) is None:
        return summary
    for name in sorted(doomed, key=_turn):
        vault.store.delete(name)
        summary.deleted += summary.sizes[name]
        summary.deleted_objects += 1
    summary.condemned -= summary.deleted
    return summary


def _relies_on(lease: LeaseRecord, name: str, since: int) -> bool:
    """Whether a holder may have found an object before it was condemned. Clocks may differ by CLOCKS."""
    if lease.began >= since + CLOCKS:
        return False
    if name.startswith(vault_names.CHUNKS):
        return lease.kind is LeaseKind.COPY
    return name.startswith(vault_names.machine_folder(lease.machine))


def find_dead(
    vault: Vault,
    policy_of: PolicyOf,
    leases: list[LeaseRecord],
    young: int,
    doomed: Set[str] = frozenset(),
    visit: Visit | None = None,
) -> tuple[Mapping[str, int], Collection]:
    """Return every object that nothing needs, with its size, and the sizes of what is alive. Chunks stored after
    ``young`` (ns since 1970 UTC, by the store's clock) may be needed by a copy yet. Of ``doomed`` objects that are
    there the sizes are told too.

    Memory: the names of one machine's objects, those of what is dead, and some 60 bytes for each chunk pack."""
    summary = Collection()
    young = min([young, *(lease.began for lease in leases if lease.kind is LeaseKind.COPY)])
    dead: dict[str, int] = {}
    named = SaltCollector()
    erased = vault.erased()
    for machine_id in vault.machines():
        machine: MachineVault | None = None
        try:
            machine = vault.machine(machine_id).with_one_listing()
            listed = {item.name: item for item in machine.folder.objects()}
        except (Damaged, NotFound, WrongKey, Unsupported) as error:
            summary.untouched[machine_id] = error
            listed = {item.name: item for item in vault.store.list(vault_names.machine_folder(machine_id))}
        summary.sizes.update({name: listed[name].size for name in listed.keys() & doomed})
        if machine_id in erased and vault_names.machine_key(machine_id) not in listed:
            summary.untouched.pop(machine_id, None)
            dead.update({name: item.size for name, item in listed.items()})
            continue
        alive = set(listed)
        try:
            if machine is not None:
                alive = _alive(machine, policy_of(machine_id), leases, listed)
        except (Damaged, NotFound, WrongKey, Unsupported) as error:
            summary.untouched[machine_id] = error
        maps = [item for name, item in listed.items() if name in alive and "/bases/" in name]
        try:
            for item in maps:
                if machine is None:
                    raise summary.untouched[machine_id]
                named.add(_chunk_packs(vault, machine, item))
        except (Damaged, NotFound, WrongKey, Unsupported) as error:
            summary.untouched.setdefault(machine_id, error)
            summary.chunks_untouched = True
        dead.update({name: item.size for name, item in listed.items() if name not in alive})
        summary.alive_by_machine[machine_id] = sum(item.size for name, item in listed.items() if name in alive)
        summary.alive += summary.alive_by_machine[machine_id]
        if visit is not None and machine is not None and machine_id not in summary.untouched:
            visit(machine)
    _find_dead_chunks(vault, named.collected(), young, doomed, dead, summary)
    summary.sizes.update(dead)
    return dead, summary


def _find_dead_chunks(
    vault: Vault, named: SaltSet, young: int, doomed: Set[str], dead: dict[str, int], summary: Collection
) -> None:
    """Go through the packs a portion at a time."""
    alive: dict[int, tuple[bytearray, array[int]]] = {}
    for some in _portions(vault.store.list(vault_names.CHUNKS)):
        domains = [vault_names.chunk_domain(item.name) for item in some]
        salts = [vault_names.chunk_salt(item.name, domain) for item, domain in zip(some, domains, strict=True)]
        # Whatever else lies there is left alone.
        needed_here = named.contains(as_salts(b"".join(salt or bytes(SALT_BYTES) for salt in salts))).tolist()
        for item, domain, salt, needed_too in zip(some, domains, salts, needed_here, strict=True):
            if item.name in doomed:
                summary.sizes[item.name] = item.size
            if salt is not None and item.modified <= young and not needed_too and not summary.chunks_untouched:
                dead[item.name] = item.size
                continue
            summary.alive += item.size
            if salt is not None:
                salts_there, sizes = alive.setdefault(domain, (bytearray(), array("Q")))
                salts_there += salt
                sizes.append(item.size)
    summary.packs = {
        domain: (as_salts(found), np.frombuffer(sizes, np.uint64)) for domain, (found, sizes) in alive.items()
    }


def _portions(listed: Iterator[Listed]) -> Iterator[list[Listed]]:
    while some := list(itertools.islice(listed, _PORTION)):
        yield some


def _alive(
    machine: MachineVault,
    policy: ReplicationPolicy,
    leases: list[LeaseRecord],
    listed: Mapping[str, Listed],
) -> set[str]:
    """What of a machine's objects is needed. Raises Damaged, and NotFound where what a state rests on is missing."""
    machine_id = machine.id
    pins = [lease.position for lease in leases if lease.machine == machine_id and lease.position is not None]
    timeline = machine.stored.timeline(with_condemned=True)
    plan = plan_retention(timeline, machine.points.listed(timeline=timeline), policy, pins)
    alive = needed(machine, timeline, plan, listed)
    if any(lease.kind is LeaseKind.MERGE and lease.machine == machine_id for lease in leases):
        alive |= {name for name in listed if name.startswith(f"{vault_names.machine_folder(machine_id)}data/")}
    if any(lease.kind is LeaseKind.COPY and lease.machine == machine_id for lease in leases):
        # The maps of an epoch that is being rebased have no document yet.
        alive |= {name for name in listed if name.startswith(f"{vault_names.machine_folder(machine_id)}bases/")}
    return alive


def needed(
    machine: MachineVault, timeline: Timeline, plan: Plan, listed: Mapping[str, Listed], *, merged: bool = False
) -> set[str]:
    """Return the names of a machine's objects that its plan needs; what is not understood is left alone. ``merged``: as
    if all that may be merged were, the layers to be made left out."""
    newest = max(timeline.epochs, default=Epoch(0))
    alive = {vault_names.machine_key(machine.id)}
    # A lost document may come back from a copy: its epoch stays as long as an older one does.
    lost = {number for number in timeline.damaged if not plan or number > min(plan)}
    for number in lost:
        alive.add(vault_names.description(machine.id, number))
        for stored in timeline.layers(number):
            alive |= {stored.object.name} | machine.stored.source_names(machine.stored.layer(stored))
    for number, epoch in plan.items():
        record = timeline.record(number)
        alive |= {vault_names.epoch(machine.id, number), vault_names.rebased(machine.id, number)}
        alive.add(vault_names.description(machine.id, record.description))
        alive |= {
            vault_names.base_map(machine.id, number, disk.number, disk.map) for disk in record.disks if disk.mapped
        }
        spans = set(epoch.spans())
        # Of two that merged the same range at once, the layer whose name comes first is kept, whoever looks.
        layers = {(one.layer.first, one.layer.end): one for one in reversed(timeline.data_layers(number))}
        for one in timeline.layers(number):
            name = one.layer
            in_span = name.tier == DATA_TIER and (name.first, name.end) in spans and layers[name.first, name.end] is one
            if in_span or (epoch.hot_from is not None and name.first >= epoch.hot_from):
                alive.add(one.object.name)
                alive |= machine.stored.source_names(machine.stored.layer(one))
        for begin, end in () if merged else spans - layers.keys():
            # Not merged yet: everything that the state is made of stays.
            for piece in timeline.between(number, begin, end):
                alive.add(piece.stored.object.name)
                if isinstance(piece.stored, StoredLayer):
                    alive |= machine.stored.source_names(machine.stored.layer(piece.stored))
    descriptions = sorted(name for name in listed if "/descriptions/" in name)
    alive |= set(descriptions[-1:])
    return alive | {name for name in listed if name not in alive and _stays(name, plan, newest, lost)}


def _stays(name: str, plan: Plan, newest: Epoch, lost: Set[Epoch]) -> bool:
    """Whether an object that no layer and no document names is needed, by its own name; all of an epoch that is newer
    than any complete one, or whose document is ``lost``, is."""
    segment = SegmentName.parse(name)
    if segment is not None:
        epoch = plan.get(segment.epoch)
        if segment.epoch > newest or segment.epoch in lost:
            return True
        if epoch is None:
            return False
        return segment.role is Role.BASE or (epoch.hot_from is not None and segment.end > epoch.hot_from)
    kind, _, rest = name.split("/", 2)[2].partition("/")
    if kind == "points":
        epoch_digits, sequence, _ = rest.split("-", 2)
        position = Position(Epoch(int(epoch_digits, 16)), Sequence(int(sequence, 16)))
        epoch = plan.get(position.epoch)
        return (
            position.epoch > newest or position.epoch in lost or (epoch is not None and epoch.keeps(position.sequence))
        )
    if kind == "bases":
        number = Epoch(int(rest.partition("-")[0], 16))
        return number > newest or number in lost
    if kind == "differences":
        return Epoch(int(rest.partition("-")[0], 16)) >= min(plan, default=newest)
    return kind not in ("layers", "data", "epochs", "rebased", "descriptions")


def _chunk_packs(vault: Vault, machine: MachineVault, item: Listed) -> Salts:
    opened = open_object(vault.store, machine.key, item.name, item.size, Kind.BASE_MAP)
    return decode_index(opened.index, item.name).salts


def _turn(name: str) -> tuple[int, str]:
    if name.startswith(vault_names.CHUNKS):
        return len(_ORDER), name
    kind = name.split("/", 3)[2]
    return (_ORDER.index(kind) if kind in _ORDER else 0), name
