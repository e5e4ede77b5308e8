"""Two compactors, two who apply retention and two collectors at once, without any grace, beside a writer and a reader:
no kept point is harmed, whatever the order of their operations."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import pytest
from tests.unit.vault.interleaved_store import Schedule
from tests.unit.vault.synthetic import Machine, memory_vault, new_vault, read

from farshore.model.errors import Damaged, NotFound
from farshore.model.identifiers import DiskNumber, PointId
from farshore.model.point import PointKind, RecoveryPoint
from farshore.model.policy import ReplicationPolicy
from farshore.model.position import Position
from farshore.vault import Named, Vault, open_store
from farshore.vault.upkeep.collection import collect
from farshore.vault.upkeep.compaction import Tiers, compact
from farshore.vault.upkeep.rebase import rebase
from farshore.vault.upkeep.retention import apply_retention
from farshore.vault.upkeep.verify import verify

MINUTE = 60 * 1_000_000_000
POLICY = ReplicationPolicy(hot_window=3600, keep_hourly=2, keep_daily=1)
OTHER = ReplicationPolicy(hot_window=2 * 3600, keep_hourly=3, keep_daily=1)
"""While a policy changes, two servers may go by different ones for a while."""
TIERS = Tiers(segments=3, fan=2)


def prepared(machine: Machine) -> RecoveryPoint:
    machine.step = 12 * MINUTE
    machine.fill()
    machine.begin_epoch(None)
    machine.journal(segments=16, batches=1, count=6)
    at = machine.in_vault.points.latest()
    named = RecoveryPoint(PointId("named"), machine.id, at.position, at.time, PointKind.APP_CONSISTENT, "kept")
    machine.in_vault.writing.put_point(named)
    machine.fill()
    machine.begin_epoch(at.position, "resync")
    machine.journal(segments=10, batches=1, count=6)
    return named


def upkeep(vault: Vault, machine: Machine, policy: ReplicationPolicy) -> None:
    for _ in range(3):
        for part in (
            lambda: compact(vault.machine(machine.id), TIERS),
            lambda: apply_retention(vault.machine(machine.id), policy),
            lambda: rebase(vault.machine(machine.id), longest=0),
            lambda: collect(vault, lambda _machine: policy, grace=0),
        ):
            try:
                part()
            except (NotFound, Damaged):
                # What one was about to merge the other had merged and deleted: it looks anew at its next round.
                continue


def check_all(machine: Machine, must: set[Position]) -> None:
    listed = {point.position for point in machine.in_vault.points.listed()}
    assert must <= listed
    for position in listed:
        machine.check(position)
    assert verify(machine.vault, data=True).findings == []


def must_stay(machine: Machine, named: RecoveryPoint) -> set[Position]:
    newest = machine.in_vault.points.latest().time
    hot = {one.position for one in machine.in_vault.points.listed() if one.time >= newest - POLICY.hot_window * 10**9}
    return {*hot, named.position, machine.in_vault.points.latest().position}


@pytest.mark.parametrize("seed", [*range(14, 26), 43, 49, 57, 69])
def test_every_schedule_leaves_every_kept_point_whole(seed: int) -> None:
    machine = Machine(memory_vault(), 91, {0: 256 << 10})
    named = prepared(machine)
    key = bytes.fromhex(machine.vault.key_hex)
    schedule = Schedule(seed)
    store = schedule.store(machine.vault.store)
    vaults = [Vault.open_with_vault_key(store, key) for _ in range(4)]
    truth = machine.states

    def write() -> None:
        machine.in_vault = vaults[2].machine(machine.id)
        machine.journal(segments=4, batches=1, count=6)

    def read_on() -> None:
        # Whatever is listed, old states that retention gives up meanwhile too: what could be opened is read to its end.
        mine = vaults[3].machine(machine.id)
        while upkeeps_left:
            try:
                point = machine.random.choice(mine.points.listed())
                source = mine.disks.open(point.position, DiskNumber(0))
            except (NotFound, Damaged):  # given up between the list and the look
                continue
            for _ in range(5):
                vaults[3].cache.__init__(64 << 20)  # type: ignore[misc]
                assert read(source, 0, source.size) == truth[point.position][0]
            source.close()

    upkeeps_left = [1, 2]

    def look_after(vault: Vault, policy: ReplicationPolicy) -> None:
        try:
            upkeep(vault, machine, policy)
        finally:
            upkeeps_left.pop()

    policies = (POLICY, OTHER if seed % 2 else POLICY)
    upkeeps = [
        lambda vault=vault, policy=policy: look_after(vault, policy)
        for vault, policy in zip(vaults, policies, strict=False)
    ]
    schedule.run([*upkeeps, write, read_on])
    assert schedule.switches >= 3
    machine.in_vault = machine.vault.machine(machine.id)
    check_all(machine, must_stay(machine, named))
    # Whoever comes next finishes the work and finds nothing amiss.
    for _ in range(2):
        upkeep(machine.vault, machine, POLICY)
    check_all(machine, must_stay(machine, named))
    assert machine.in_vault.points.resolve(Named("kept")).position == named.position


def _work(folder: str, key: str, machine: str, rounds: int) -> None:
    from farshore.vault.upkeep.turns import maintain, one_policy

    for _ in range(rounds):
        vault = Vault.open_with_vault_key(open_store(folder), bytes.fromhex(key))
        maintain(vault, one_policy(POLICY), grace=0)
        assert machine in vault.machines()


def test_two_processes_at_once(tmp_path: Path) -> None:
    machine = Machine(new_vault(tmp_path)[0], 92, {0: 256 << 10})
    named = prepared(machine)
    start = multiprocessing.get_context("spawn")
    arguments = (machine.vault.store.url, machine.vault.key_hex, machine.id, 6)
    workers = [start.Process(target=_work, args=arguments) for _ in range(2)]
    for worker in workers:
        worker.start()
    while any(worker.is_alive() for worker in workers):
        machine.journal(segments=2, batches=1, count=6)
        machine.check(machine.in_vault.points.latest().position)
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    check_all(machine, must_stay(machine, named))
