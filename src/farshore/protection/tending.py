"""Tend the vault: indexes over its journal, short chains of epochs, retention by policy, garbage collection, and the
catalog's list of points.

In: an open vault and the policies of the catalog. Each round may be stopped, repeated, or run beside another. A machine
whose data is damaged or unreachable is logged and skipped; the others are tended.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Set

from farshore.catalog import epochs, machines, points, policies
from farshore.catalog.database import Catalog, Transaction
from farshore.catalog.tables import PointRow, PolicyRow
from farshore.model.errors import Damaged, FarshoreError, NotFound, WrongKey
from farshore.model.identifiers import MachineId
from farshore.model.point import PointKind, RecoveryPoint
from farshore.model.policy import ReplicationPolicy
from farshore.model.position import Position
from farshore.protection.turns import UpkeepTurns
from farshore.vault.machine import MachineVault
from farshore.vault.upkeep import stored_retention
from farshore.vault.upkeep.collection import collect
from farshore.vault.upkeep.compaction import compact
from farshore.vault.upkeep.rebase import rebase
from farshore.vault.upkeep.retention import Plan, apply_retention, believed
from farshore.vault.upkeep.turns import renew_directories
from farshore.vault.vault import Vault

log = logging.getLogger(__name__)
SECOND = 1_000_000_000


def compact_all(vault: Vault, turns: UpkeepTurns) -> None:
    """Write the indexes that are due, so that a point opens quickly however long its journal is."""
    for machine in _due(vault, turns):
        try:
            made = compact(vault.machine(machine))
        except FarshoreError as error:
            log.warning("The journal of machine %s was not indexed: %s", machine, error)
        else:
            turns.done(machine)
            if made:
                log.info("Journal indexed. machine=%s layers=%d", machine, len(made))


def rebase_all(vault: Vault, turns: UpkeepTurns) -> None:
    """Rewrite the bases that depend on too many others, so that a point reads quickly whatever came before it."""
    for machine in _due(vault, turns):
        try:
            made = rebase(vault.machine(machine))
        except FarshoreError as error:
            log.warning("The epochs of machine %s were not rebased: %s", machine, error)
        else:
            turns.done(machine)
            for epoch in made:
                log.info("Rebased: the epoch no longer depends on another one. machine=%s epoch=%d", machine, epoch)


def thin_all(vault: Vault, catalog: Catalog, turns: UpkeepTurns) -> None:
    """Merge what the policies no longer keep, and update the catalog's list."""
    known = _policies(catalog)
    for machine in _due(vault, turns):
        try:
            _thin(vault, vault.machine(machine).with_one_listing(), catalog, known)
        except FarshoreError as error:
            log.warning("The points of machine %s were not thinned: %s", machine, error)
        else:
            turns.done(machine)


def _thin(vault: Vault, machine: MachineVault, catalog: Catalog, known: Mapping[MachineId, ReplicationPolicy]) -> None:
    policy = _policy_of(vault, known, machine.id)
    plan, _ = apply_retention(machine, policy)
    if machine.id in known:
        reindex_cold(catalog, machine, plan, policy)


def collect_all(vault: Vault, catalog: Catalog, thinning: UpkeepTurns) -> None:
    """Condemn what the policies no longer keep, and delete what was condemned long ago. Each machine's points are
    thinned at the same time, because its objects are listed then: a machine that writes nothing needs no other turn for
    that."""
    known = _policies(catalog)

    def policy_of(machine: MachineId) -> ReplicationPolicy:
        return _policy_of(vault, known, machine)

    def thin(machine: MachineVault) -> None:
        try:
            _thin(vault, machine, catalog, known)
        except FarshoreError as error:
            log.warning("The points of machine %s were not thinned: %s", machine.id, error)
        else:
            thinning.done(machine.id)

    done = collect(vault, policy_of, visit=thin)
    written = renew_directories(vault, done)
    for machine, why in done.untouched.items():
        log.warning("Nothing of machine %s was collected, and nothing will be until it is repaired: %s", machine, why)
    if done.chunks_untouched:
        log.warning("No chunks were collected, because the chunks that a damaged machine needs are not known.")
    if done.deleted_objects:
        log.info("Collected. objects=%d bytes=%d", done.deleted_objects, done.deleted)
    if written:
        log.info("Chunk directories written: %d", written)


def _policy_of(vault: Vault, known: Mapping[MachineId, ReplicationPolicy], machine: MachineId) -> ReplicationPolicy:
    """Return the policy; for a machine that the catalog does not know, the vault's retention, or one that keeps
    everything. Neither a deleted machine nor a lost catalog may shorten the life of points."""
    return known.get(machine) or stored_retention.stored_or_all(vault, machine)


class RetentionKept:
    """Writes the policies' retention to the vault soon after they change, for upkeep without a server.

    What was written is remembered, so a round without changes does not ask the vault; after a start each machine is
    checked once. Used by one thread."""

    def __init__(self, vault: Callable[[], Vault], catalog: Catalog) -> None:
        self._vault, self._catalog = vault, catalog
        self._written: dict[MachineId, ReplicationPolicy] = {}

    def look(self) -> None:
        """Write what changed. A machine that was erased or whose key is lost is skipped; raises the store's errors."""
        with self._catalog.reading() as tx:
            stored = set(epochs.shapes(tx)[0])
        known = _policies(self._catalog)
        for machine, policy in known.items():
            if machine not in stored or self._written.get(machine) == policy:
                continue
            try:
                if stored_retention.write(self._vault(), machine, policy):
                    log.info("Retention written to the vault. machine=%s policy=%s", machine, policy.name)
            except NotFound:  # nothing of it is in the vault yet, or any longer
                continue
            except (Damaged, WrongKey) as error:
                log.warning("The retention of machine %s was not written to the vault: %s", machine, error)
            self._written[machine] = policy
        self._written = {machine: policy for machine, policy in self._written.items() if machine in known}


def _due(vault: Vault, turns: UpkeepTurns) -> list[MachineId]:
    """Return the machines that are due; the vault is only asked if there are any."""
    if not turns.begin():
        return []
    there, erased = vault.machines(), vault.erased()
    turns.skip(set(there) - erased)
    return [machine for machine in there if machine not in erased and turns.due(machine)]


def reindex_cold(catalog: Catalog, machine: MachineVault, plan: Plan, policy: ReplicationPolicy) -> None:
    """Make the catalog list exactly the points that the plan keeps before the hot window."""
    timeline = machine.stored.timeline()
    listed, pinned = machine.points.listed(timeline=timeline), timeline.pinned
    if not listed:
        return
    limit = max(point.time for point in believed(listed, time.time_ns())) - policy.hot_window * SECOND
    kept = [
        point
        for point in listed
        if point.time < limit
        and point.position.epoch in plan
        and plan[point.position.epoch].keeps(point.position.sequence)
    ]
    left = list(thinned(kept, policy.crash_consistent_every * SECOND, pinned))

    def list_them(tx: Transaction) -> None:
        points.replace_before(tx, machine.id, limit, [point_row(machine.id, point) for point in left])
        points.mark_pinned(tx, machine.id, pinned)

    catalog.write(list_them)


def thinned(
    listed: Iterable[RecoveryPoint], every: int, pinned: Set[Position] = frozenset()
) -> Iterable[RecoveryPoint]:
    """Thin points in the order of time: keep unnamed crash-consistent points at least ``every`` ns apart, and all
    others, including those that are ``pinned``."""
    last: int | None = None
    for point in listed:
        plain = point.kind is PointKind.CRASH_CONSISTENT and not point.name and point.position not in pinned
        if plain and last is not None and 0 <= point.time - last < every:
            continue
        last = point.time if plain else last
        yield point


def point_row(machine: str, point: RecoveryPoint) -> PointRow:
    """Return the catalog's row of a point."""
    position, kind = point.position, point.kind.value
    plain = point.kind is PointKind.CRASH_CONSISTENT and not point.name
    return PointRow(
        id=points.point_id(machine, position.epoch, position.sequence, kind) if plain else point.id,
        machine=machine,
        epoch=position.epoch,
        sequence=position.sequence,
        time=point.time,
        kind=kind,
        name=point.name,
    )


def _policies(catalog: Catalog) -> dict[MachineId, ReplicationPolicy]:
    with catalog.reading() as tx:
        by_name = {row.name: _policy(row) for row in policies.every(tx)}
        return {MachineId(row.id): by_name[row.policy] for row in machines.every(tx)}


def _policy(row: PolicyRow) -> ReplicationPolicy:
    return ReplicationPolicy(
        name=row.name,
        rpo_threshold=row.rpo_threshold,
        crash_consistent_every=row.crash_consistent_every,
        app_consistent_every=row.app_consistent_every,
        hot_window=row.hot_window,
        keep_hourly=row.keep_hourly,
        keep_daily=row.keep_daily,
        keep_weekly=row.keep_weekly,
    )
