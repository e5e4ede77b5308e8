"""A base written anew: the same states over fewer epochs, and the older epochs can go."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.unit.vault.faulty_store import KillableStore, Killed
from tests.unit.vault.synthetic import Machine, memory_vault, read

from farshore.formats import vault_names
from farshore.model.errors import Damaged
from farshore.model.identifiers import CHUNK, DiskNumber, Epoch
from farshore.model.policy import ReplicationPolicy
from farshore.vault import Vault
from farshore.vault.objects.epochs import EpochRecord
from farshore.vault.upkeep.collection import collect
from farshore.vault.upkeep.rebase import LONGEST_CHAIN, rebase
from farshore.vault.upkeep.retention import apply_retention
from farshore.vault.upkeep.verify import verify

MINUTE = 60 * 1_000_000_000
NEWEST_ONLY = ReplicationPolicy(hot_window=0, keep_hourly=1, keep_daily=0, keep_weekly=0)


@pytest.fixture
def machine() -> Machine:
    made = Machine(memory_vault(), 5, {0: 3 << 20, 1: (1 << 20) + 3 * 512})
    made.step = 20 * MINUTE
    made.fill()
    made.begin_epoch(None)
    made.journal(1, 1, 20)
    return made


def go_on(machine: Machine, epochs: int) -> None:
    """Heals and resyncs, each on top of the newest state."""
    for number in range(epochs):
        parent = max(machine.states)
        machine.go_back(parent)
        machine.disks[0][5000 + number * 9000 : 9000 + number * 9000] = machine.random.randbytes(4000)
        machine.begin_epoch(parent, "heal" if number % 2 else "resync", overlay=5)
        machine.journal(1, 1, 20)


def levels(machine: Machine) -> Iterator[int]:
    for position in sorted(machine.states):
        source = machine.in_vault.disks.open(position, DiskNumber(0))
        source.close()
        yield len(source._levels)


def chunk_bytes(machine: Machine) -> int:
    return sum(item.size for item in machine.vault.store.list(vault_names.CHUNKS))


def test_every_state_stays_what_it_was_and_rests_on_few_epochs(machine):
    go_on(machine, 2 * LONGEST_CHAIN + 3)
    assert max(levels(machine)) > 4 * LONGEST_CHAIN
    assert rebase(machine.in_vault) == [Epoch(LONGEST_CHAIN + 2), Epoch(2 * LONGEST_CHAIN + 3)]
    # Of each epoch its map, and its overlay and journal in one.
    assert max(levels(machine)) == 2 * (LONGEST_CHAIN + 1)
    for position in machine.states:
        machine.check(position)
    assert verify(machine.vault, data=True).findings == []
    assert rebase(machine.in_vault) == []


def test_chunks_that_nobody_wrote_to_are_not_stored_again(machine):
    go_on(machine, 1)
    before = chunk_bytes(machine)
    rebase(machine.in_vault, longest=0)
    # 40 blocks of journal and overlay on random data touch no more chunks than they are.
    assert chunk_bytes(machine) - before < 70 * CHUNK


def test_older_epochs_go_when_no_point_of_theirs_is_kept(machine):
    go_on(machine, 3)
    machine.journal(8, 1, 3)  # hours, so that every kept point is of the newest epoch
    newest = max(machine.states)

    def look_after() -> set[int]:
        apply_retention(machine.in_vault, NEWEST_ONLY)
        for _ in range(2):
            collect(machine.vault, lambda _machine: NEWEST_ONLY, grace=0)
        return set(machine.in_vault.stored.timeline().epochs)

    assert look_after() == {1, 2, 3, 4}, "the newest rests on all of them"
    assert rebase(machine.in_vault, longest=2) == [Epoch(4)]
    assert look_after() == {4}
    machine.check(newest)
    assert verify(machine.vault, data=True).findings == []
    go_on(machine, 1)
    machine.check(max(machine.states))


def test_who_has_a_state_open_through_the_older_epochs_reads_on(machine):
    go_on(machine, 3)
    machine.journal(8, 1, 3)
    newest = max(machine.states)
    key = bytes.fromhex(machine.vault.key_hex)
    source = Vault.open_with_vault_key(machine.vault.store, key, cache_bytes=1).machine(machine.id).disks.open(
        newest, DiskNumber(0)
    )  # fmt: skip
    rebase(machine.in_vault, longest=0)
    for _ in range(3):
        apply_retention(machine.in_vault, NEWEST_ONLY)
        collect(machine.vault, lambda _machine: NEWEST_ONLY, grace=0)
    assert read(source, 0, source.size) == machine.states[newest][0]
    source.close()


def test_disks_that_grew_shrank_came_and_went(machine):
    machine.disks[1] += machine.random.randbytes(1 << 20)
    machine.disks[2] = bytearray(machine.random.randbytes(200_704))
    machine.begin_epoch(max(machine.states), "resync")
    machine.journal(1, 1, 20)
    parent = max(machine.states)
    machine.disks[2] = machine.disks[2][:70_144]
    del machine.disks[1]
    machine.begin_epoch(parent, "resync", overlay=4)
    machine.journal(1, 1, 20)
    parent = max(machine.states)
    machine.disks[2] += bytes(66_048)
    machine.begin_epoch(parent, "resync")
    assert rebase(machine.in_vault, longest=0) == [Epoch(2), Epoch(3), Epoch(4)]
    for position in machine.states:
        machine.check(position)


def test_a_collector_leaves_the_maps_of_an_epoch_that_is_being_rebased(machine, monkeypatch):
    go_on(machine, 2)
    put = machine.in_vault.writing.put_rebased

    def collect_first(record: EpochRecord) -> bool:
        for _ in range(3):
            collect(machine.vault, lambda _machine: NEWEST_ONLY, grace=0)
        return put(record)

    monkeypatch.setattr(machine.in_vault.writing, "put_rebased", collect_first)
    assert rebase(machine.in_vault, longest=1) == [Epoch(3)]
    machine.check(max(machine.states))
    assert verify(machine.vault, data=True).findings == []


def test_where_something_cannot_be_read_the_epoch_stays_on_its_parent(machine):
    go_on(machine, 2)
    segment = next(machine.in_vault.stored.timeline().segments(Epoch(2))).object
    store = machine.vault.store
    data = bytearray(store.get(segment.name))
    data[len(data) // 3] ^= 1
    store.put(segment.name, [bytes(data)])
    fresh = Vault.open_with_vault_key(store, bytes.fromhex(machine.vault.key_hex)).machine(machine.id)
    with pytest.raises(Damaged):
        rebase(fresh, longest=1)
    assert fresh.stored.timeline().epochs[Epoch(3)].parent is not None


def test_a_lost_or_damaged_document_of_a_rebased_epoch_never_gives_other_bytes(machine):
    go_on(machine, 2)
    machine.journal(8, 1, 3)
    newest = max(machine.states)
    rebase(machine.in_vault, longest=1)
    name, store = vault_names.rebased(machine.id, Epoch(3)), machine.vault.store
    whole = bytes(store.get(name))
    store.put(name, [whole[:-9]])
    assert [one.object for one in verify(machine.vault).findings] == [name]
    machine.check(newest)  # through its parent, as before
    store.put(name, [whole])
    apply_retention(machine.in_vault, NEWEST_ONLY)
    for _ in range(2):
        collect(machine.vault, lambda _machine: NEWEST_ONLY, grace=0)
    machine.check(newest)
    for damage in (lambda: store.put(name, [whole[:-9]]), lambda: store.delete(name)):
        damage()
        with pytest.raises(Damaged):
            machine.in_vault.disks.open(newest, DiskNumber(0))
        assert verify(machine.vault).findings != []
        store.put(name, [whole])
    machine.check(newest)


def test_who_is_killed_leaves_what_the_next_one_completes(machine):
    go_on(machine, 2)
    for at in range(100):
        store = KillableStore(machine.vault.store, at)
        vault = Vault.open_with_vault_key(store, bytes.fromhex(machine.vault.key_hex))
        try:
            rebase(vault.machine(machine.id), longest=0)
        except Killed:
            machine.check(max(machine.states))
            continue
        break
    assert at > 5
    assert {record.parent for record in machine.in_vault.stored.timeline().epochs.values()} == {None}
    for position in machine.states:
        machine.check(position)
