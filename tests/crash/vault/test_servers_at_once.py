"""Two process servers with indexes on their own disks and two collectors without any grace in one vault, in every order
of their operations on the store: whatever a server was told is held is there when the copy has ended."""

from __future__ import annotations

import functools
import random
from pathlib import Path

import pytest
from tests.unit.vault.interleaved_store import Schedule
from tests.unit.vault.synthetic import MACHINE, Machine, memory_vault

from farshore.formats import vault_names
from farshore.model.errors import Damaged, NotFound
from farshore.model.identifiers import CHUNK, MachineId
from farshore.model.policy import ReplicationPolicy
from farshore.vault import Vault
from farshore.vault.chunk_index import ChunkIndex
from farshore.vault.objects import chunks, directories
from farshore.vault.upkeep.collection import collect
from farshore.vault.upkeep.retention import apply_retention
from farshore.vault.upkeep.turns import renew_directories
from farshore.vault.upkeep.verify import verify

POLICY = ReplicationPolicy(hot_window=3600, keep_hourly=0, keep_daily=0)
POOL = [random.Random(number).randbytes(CHUNK) for number in range(6)]
COPIES = 8


@pytest.mark.parametrize("seed", range(14))
def test_every_schedule_leaves_what_was_found_held(seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module, name, value in (
        (chunks, "PACK_TARGET", CHUNK + 1),
        (chunks, "ChunkIndex", functools.partial(ChunkIndex, smallest=4)),
        (chunks, "_WORTH_DIRECTORIES", 2),
        (directories, "PACKS", 4),
        (directories, "_LEAST", 2),
        (directories, "_MOST_SMALL", 2),
    ):
        monkeypatch.setattr(module, name, value)
    made = memory_vault()
    schedule = Schedule(seed)
    store = schedule.store(made.store)
    machines = [
        Machine(made, seed + number, {0: 3 * CHUNK}, MachineId(MACHINE.replace("7", str(number + 1))))
        for number in range(2)
    ]
    servers = [Vault.with_keys(store, made._keys, indexes=tmp_path / str(number)) for number in range(2)]
    at_work = [machine.id for machine in machines]
    deleted = sent = 0

    def copy(number: int) -> None:
        nonlocal sent
        machine = machines[number]
        machine.step = 7200 * 10**9
        try:
            for turn in range(COPIES):
                if turn == COPIES // 2:  # a restart, on what its folder has
                    servers[number].close()
                    servers[number] = Vault.with_keys(store, made._keys, indexes=tmp_path / str(number))
                machine.vault, machine.in_vault = servers[number], servers[number].machine(machine.id)
                machine.disks[0][:] = b"".join(machine.random.choices(POOL, k=3))
                sent += machine.begin_epoch(None)
                machine.check(max(machine.states))
                for _ in range(20):
                    store.folders(vault_names.MACHINES)  # no copy runs for a while
        finally:
            at_work.remove(machine.id)

    def upkeep() -> None:
        nonlocal deleted
        vault = Vault.with_keys(store, made._keys)
        while at_work:
            try:
                for machine in machines:
                    apply_retention(vault.machine(machine.id), POLICY)
                found = collect(vault, lambda _machine: POLICY, grace=0)
                deleted += found.deleted_objects
                renew_directories(vault, found)
            except (NotFound, Damaged):  # the other one has deleted what it was about to read
                continue

    schedule.run([lambda: copy(0), lambda: copy(1), upkeep, upkeep])
    for server in servers:
        server.close()
    for machine in machines:
        machine.in_vault = made.machine(machine.id)
        for point in machine.in_vault.points.listed():
            machine.check(point.position)
    assert verify(made, data=True).findings == []
    assert deleted
    assert sent < 2 * 3 * COPIES, "chunks were found held"
