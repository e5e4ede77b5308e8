"""Upkeep of a vault: compaction, retention, rebasing, collection of every machine in turn; and what its bytes are for.

One function for whoever runs it, a server by the clock or a person by hand: each part is safe beside all others.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from farshore.formats import vault_names
from farshore.formats.container import Kind
from farshore.model.errors import Damaged, FarshoreError, NotFound, WrongKey
from farshore.model.identifiers import MachineId
from farshore.model.policy import ReplicationPolicy
from farshore.vault.objects.directories import renew
from farshore.vault.objects.named_chunks import NamedChunks, PackNumbers
from farshore.vault.objects.opening import open_object
from farshore.vault.reading.leases import live_leases
from farshore.vault.stores.port import Sweepable
from farshore.vault.upkeep.collection import GRACE, Collection, PolicyOf, collect, find_dead
from farshore.vault.upkeep.compaction import compact
from farshore.vault.upkeep.erasure import add_named_chunks
from farshore.vault.upkeep.forecast import Forecast, forecast
from farshore.vault.upkeep.rebase import rebase
from farshore.vault.upkeep.retention import apply_retention
from farshore.vault.upkeep.salts import as_salts
from farshore.vault.vault import Vault

_log = logging.getLogger(__name__)
_DAY = 24 * 3600 * 1_000_000_000
_DOMAIN = re.compile(r"[0-9a-f]{8}")
_LONGEST_PUT = 24 * 3600.0
"""Seconds after which a put that has not ended is that of a dead process, also where one was suspended meanwhile."""


@dataclass
class UpkeepReport:
    """What a run did. ``troubles`` has the error of each machine whose part failed; the others were done."""

    layers: int = 0
    merged: int = 0
    rebased: int = 0
    swept: int = 0
    """Temporary files of puts that were broken off, removed."""
    collection: Collection | None = None
    directories: int = 0
    """Chunk directories written."""
    troubles: dict[MachineId, FarshoreError] = field(default_factory=dict)


def maintain(vault: Vault, policy_of: PolicyOf, grace: int = GRACE) -> UpkeepReport:
    """Sweep, compact, apply retention, rebase, collect. Of a machine that is damaged everything stays, and the others
    are looked after. May be stopped and repeated at any time, and run on several servers at once."""
    done = UpkeepReport(swept=sweep(vault))
    leases = live_leases(vault.store, vault.upkeep_key, time.time_ns())
    erased = vault.erased()
    for machine_id in vault.machines():
        pins = [lease.position for lease in leases if lease.machine == machine_id and lease.position is not None]
        try:
            machine = vault.machine(machine_id)
            done.layers += len(compact(machine))
            done.merged += len(apply_retention(machine, policy_of(machine_id), pins)[1])
            done.rebased += len(rebase(machine))
        except FarshoreError as error:
            if machine_id not in erased:
                done.troubles[machine_id] = error
    done.collection = collect(vault, policy_of, grace)
    done.directories = renew_directories(vault, done.collection)
    done.troubles = {**done.collection.untouched, **done.troubles}
    return done


def renew_directories(vault: Vault, collection: Collection) -> int:
    """Cover the packs that a collection left by directories; return how many were written. A convenience: what
    keeps it from it is logged, and ends nothing else. Those of a domain whose key is lost stay as they are."""
    written = 0
    try:
        there = {int(name, 16) for name in vault.store.folders(vault_names.DIRECTORIES) if _DOMAIN.fullmatch(name)}
        for domain in sorted(collection.packs.keys() | there):
            salts, sizes = collection.packs.get(domain, (as_salts(b""), np.zeros(0, np.uint64)))
            try:
                key = vault.chunk_store(domain).keys.seal
            except (Damaged, NotFound, WrongKey):  # verification tells of it
                continue
            written += renew(vault.store, key, domain, salts, sizes)
    except FarshoreError as error:
        _log.warning("Chunk directories were not renewed; servers read chunk packs one by one instead: %s", error)
    return written


def sweep(vault: Vault) -> int:
    """Remove the temporary files of puts that crashes broke off, up to 32 MiB each; return how many there were. Stores
    that keep no such files have none. Raises the store's errors."""
    store = vault.store
    return store.sweep(_LONGEST_PUT) if isinstance(store, Sweepable) else 0


@dataclass
class MachineUsage:
    """Bytes of one machine, by what they are and by the age of their objects in days. Chunks are shared and counted
    with the vault."""

    by_kind: dict[str, int] = field(default_factory=dict)
    by_age_days: dict[int, int] = field(default_factory=dict)

    @property
    def total(self) -> int:
        """Bytes in all."""
        return sum(self.by_kind.values())


@dataclass
class Usage:
    """Bytes of a vault. ``reclaimable`` is what the policy asked about would free, chunks included."""

    machines: dict[MachineId, MachineUsage] = field(default_factory=dict)
    chunks: int = 0
    other: int = 0
    put_last_day: int = 0
    """Number of objects that were stored within the last 24 hours and are still there."""
    reclaimable: int = 0
    part_dead: int = 0
    """Of ``chunks``: in packs that stay for the sake of other chunks in them."""
    forecast: Forecast | None = None

    @property
    def total(self) -> int:
        """Bytes in all."""
        return self.chunks + self.other + sum(machine.total for machine in self.machines.values())


def usage(vault: Vault, policy_of: PolicyOf | None = None, now: Callable[[], int] = time.time_ns) -> Usage:
    """Return what takes how much; with ``policy_of``, what collection under it would free as things stand."""
    found = Usage()
    moment = now()
    for item in vault.store.list(""):
        found.put_last_day += moment - item.modified < _DAY
        if item.name.startswith(vault_names.CHUNKS):
            found.chunks += item.size
        elif item.name.startswith(vault_names.MACHINES):
            _, machine, kind = item.name.split("/", 3)[:3]
            mine = found.machines.setdefault(MachineId(machine), MachineUsage())
            mine.by_kind[kind] = mine.by_kind.get(kind, 0) + item.size
            age = max(0, moment - item.modified) // _DAY
            mine.by_age_days[age] = mine.by_age_days.get(age, 0) + item.size
        else:
            found.other += item.size
    if policy_of is not None:
        dead, _ = find_dead(vault, policy_of, live_leases(vault.store, vault.upkeep_key, moment), moment - GRACE)
        found.reclaimable = sum(dead.values())
        found.part_dead = unused_chunks(vault, dead)
        found.forecast = forecast(vault, policy_of)
    return found


def unused_chunks(vault: Vault, dead: Mapping[str, int]) -> int:
    """Return the stored bytes of the chunks that no base map names, in packs that are alive. Reads every base map."""
    named = NamedChunks(PackNumbers())
    for machine_id in vault.machines():
        try:
            add_named_chunks(vault, vault.machine(machine_id), named, dead)
        except NotFound:  # erased
            continue
    alive = named.packs()
    unused = 0
    for item in vault.store.list(vault_names.CHUNKS):
        if item.name in alive:
            rows = open_object(vault.store, vault.chunk_key_of(item.name), item.name, item.size, Kind.CHUNK_PACK).packs
            unused += int(rows["stored"][~named.names(item.name, rows["ordinal"])].sum(dtype=np.int64))
    return unused


def one_policy(policy: ReplicationPolicy) -> PolicyOf:
    """Return the same policy for every machine."""
    return lambda _machine: policy
