"""What usage says that a retention would free is what it frees, and what it would cost grows with it."""

from __future__ import annotations

import pytest
from tests.unit.vault.synthetic import Machine, memory_vault

from farshore.formats import vault_names
from farshore.model.policy import ReplicationPolicy
from farshore.vault.upkeep.compaction import compact
from farshore.vault.upkeep.forecast import forecast
from farshore.vault.upkeep.turns import maintain, one_policy, usage

MINUTE = 60 * 1_000_000_000
SHORT = ReplicationPolicy(hot_window=3600, keep_hourly=4, keep_daily=1)


@pytest.fixture
def machine():
    made = Machine(memory_vault(), 31, {0: 2 << 20})
    made.step = 5 * MINUTE
    made.fill()
    made.begin_epoch(None)
    made.journal(segments=150, batches=1, count=60)
    compact(made.in_vault)
    return made


def stored(machine: Machine) -> int:
    return sum(item.size for item in machine.vault.store.list(vault_names.MACHINES))


def test_what_is_said_to_be_freed_is_freed(machine):
    before = stored(machine)
    said = forecast(machine.vault, one_policy(SHORT))
    assert said.now == before
    for _ in range(2):
        maintain(machine.vault, one_policy(SHORT), grace=0)
    freed = before - stored(machine)
    assert freed > before / 3
    assert said.freed == pytest.approx(freed, rel=0.15)
    assert abs(forecast(machine.vault, one_policy(SHORT)).freed) < before * 0.02


def test_a_longer_retention_costs_more(machine):
    policies = [
        SHORT,
        ReplicationPolicy(hot_window=3600, keep_hourly=20, keep_daily=1),
        ReplicationPolicy(hot_window=24 * 3600, keep_hourly=20, keep_daily=1),
        ReplicationPolicy(hot_window=24 * 3600, keep_hourly=20, keep_daily=30, keep_weekly=52),
    ]
    settled = [forecast(machine.vault, one_policy(policy)).settled for policy in policies]
    assert settled == sorted(settled)
    assert settled[0] * 2 < settled[-1]
    assert usage(machine.vault, one_policy(policies[-1])).reclaimable == 0


def test_it_settles_where_it_said(machine):
    """The same machine, written to for two days more under the policy."""
    said = forecast(machine.vault, one_policy(SHORT)).settled
    for _ in range(4):
        machine.journal(segments=144, batches=1, count=60)
        for _ in range(2):
            maintain(machine.vault, one_policy(SHORT), grace=0)
    assert stored(machine) == pytest.approx(said, rel=0.5)


def test_unused_chunks_in_shared_packs_are_told(machine):
    assert usage(machine.vault, one_policy(SHORT)).part_dead == 0
    machine.disks[0][: 1 << 20] = bytes(1 << 20)
    machine.begin_epoch(None, "resync")
    machine.journal(segments=100, batches=1, count=1)
    none = ReplicationPolicy(hot_window=0, keep_hourly=0, keep_daily=0)
    for _ in range(3):
        maintain(machine.vault, one_policy(none), grace=0)
    machine.begin_epoch(None, "resync")
    machine.journal(segments=100, batches=1, count=1)
    for _ in range(3):
        maintain(machine.vault, one_policy(none), grace=0)
    found = usage(machine.vault, one_policy(none))
    assert 0 < found.part_dead < found.chunks
