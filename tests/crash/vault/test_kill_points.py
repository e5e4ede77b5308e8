"""A kill between any two object operations of upkeep loses nothing, and the next run completes the work."""

from __future__ import annotations

import itertools
import os

import pytest
from tests.unit.vault.faulty_store import KillableStore, Killed
from tests.unit.vault.synthetic import Machine, memory_vault

from farshore.model.policy import ReplicationPolicy
from farshore.vault import Vault
from farshore.vault.upkeep.collection import collect
from farshore.vault.upkeep.compaction import Tiers, compact
from farshore.vault.upkeep.rebase import rebase
from farshore.vault.upkeep.retention import apply_retention
from farshore.vault.upkeep.verify import verify

SOAK = bool(os.environ.get("FARSHORE_SOAK"))
MINUTE = 60 * 1_000_000_000
POLICY = ReplicationPolicy(hot_window=3600, keep_hourly=2, keep_daily=1)
TIERS = Tiers(segments=3, fan=2)


def prepared() -> Machine:
    machine = Machine(memory_vault(), 51, {0: 512 << 10})
    machine.step = 12 * MINUTE
    machine.fill()
    machine.begin_epoch(None)
    machine.journal(segments=12, batches=1, count=6)
    machine.fill()
    machine.begin_epoch(None, "resync")
    machine.journal(segments=14, batches=1, count=6)
    parent = max(machine.states)
    machine.disks[0][70_000:200_000] = machine.random.randbytes(130_000)
    machine.begin_epoch(parent, "resync", overlay=4)
    machine.journal(segments=2, batches=1, count=6)
    return machine


def upkeep(machine: Machine, store: KillableStore) -> None:
    vault = Vault.open_with_vault_key(store, bytes.fromhex(machine.vault.key_hex))
    compact(vault.machine(machine.id), TIERS)
    apply_retention(vault.machine(machine.id), POLICY)
    rebase(vault.machine(machine.id), longest=0)
    for _ in range(2):
        collect(vault, lambda _machine: POLICY, grace=0)


def writes_of_a_whole_run() -> int:
    machine = prepared()
    store = KillableStore(machine.vault.store)
    upkeep(machine, store)
    return store.writes


def test_a_kill_at_every_write_of_upkeep():
    kept = prepared()
    upkeep(kept, KillableStore(kept.vault.store))
    must_stay = {point.position for point in kept.in_vault.points.listed()}
    total = writes_of_a_whole_run()
    assert total > 30
    for at in range(0, total, 1 if SOAK else 1 + total // 40):
        machine = prepared()
        with pytest.raises(Killed):
            upkeep(machine, KillableStore(machine.vault.store, at))
        for position in must_stay:
            machine.check(position)
        assert verify(machine.vault).findings == []
        for lease in list(machine.vault.store.list("leases/")):  # it would end by itself within an hour
            machine.vault.store.delete(lease.name)
        upkeep(machine, KillableStore(machine.vault.store))
        assert {point.position for point in machine.in_vault.points.listed()} == must_stay
        machine.check(max(must_stay))
        machine.check(min(must_stay))


def test_a_kill_at_every_write_of_a_base_copy():
    for at in itertools.count():
        machine = prepared()
        before = machine.in_vault.points.latest().position
        machine.disks[0][1000:90_000] = machine.random.randbytes(89_000)
        store = KillableStore(machine.vault.store, at)
        killed = Machine(Vault.open_with_vault_key(store, bytes.fromhex(machine.vault.key_hex)), 1, {0: 512 << 10})
        killed.disks, killed.epoch = machine.disks, machine.epoch
        try:
            killed.begin_epoch(before, "resync", overlay=3)
        except Killed:
            machine.check(before)
            machine.check(min(machine.states))
        else:
            break
    assert at > 5
