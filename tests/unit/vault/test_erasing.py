"""Erasing beside copies, collectors and kills: nobody else loses a chunk; and what is erased is told from what is lost.

What an erased machine leaves behind, and keys, are in test_keys.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tests.unit.vault.synthetic import DESCRIPTION, Machine, memory_vault
from tests.unit.vault.test_keys import two_machines

from farshore.formats import vault_names
from farshore.model.errors import Damaged, NotFound
from farshore.model.identifiers import DiskNumber, Epoch, MachineId, Sequence
from farshore.model.policy import ReplicationPolicy
from farshore.model.position import Position
from farshore.vault import BaseCopy, EpochRecord, Vault
from farshore.vault.stores.port import Store
from farshore.vault.upkeep.collection import GRACE, collect
from farshore.vault.upkeep.erasure import erase
from farshore.vault.upkeep.verify import verify

START = Position(Epoch(1), Sequence(0))


class Watched:
    """A store that calls ``after`` with the name of each object that was put or deleted."""

    def __init__(self, store: Store, after: Callable[[str], None]) -> None:
        self._store, self._after = store, after

    def __getattr__(self, name: str) -> object:
        return getattr(self._store, name)

    def put_if_absent(self, name: str, buffers: object) -> bool:
        done = self._store.put_if_absent(name, buffers)
        self._after(name)
        return done

    def delete(self, name: str) -> None:
        self._store.delete(name)
        self._after(name)


def reopened(vault: Vault, store: Store | None = None) -> Vault:
    return Vault.open_with_vault_key(store or vault.store, bytes.fromhex(vault.key_hex))


def third_of(first: Machine) -> Machine:
    """A machine with what the first one's base has, and nothing in the vault yet but its key."""
    third = Machine(reopened(first.vault), 83, {0: 2 << 20}, MachineId(first.id.replace("7", "5")))
    third.disks[0][:] = first.states[START][0]
    third.epoch = 1
    return third


def begun(machine: Machine) -> BaseCopy:
    """A copy that has compared everything and found it known."""
    copy = machine.in_vault.bases.begin_copy(Epoch(1), [(DiskNumber(0), 2 << 20)], None)
    assert machine._copy_disk(copy, 0) == 0
    return copy


def finish(machine: Machine, copy: BaseCopy) -> None:
    disks = copy.finish()
    record = EpochRecord(Epoch(1), "initial", None, Sequence(0), machine.time, Sequence(1), disks, 1)
    machine.in_vault.writing.put_description(DESCRIPTION, 1)
    assert machine.in_vault.writing.put_epoch(record)
    copy.close()
    machine.states[START] = machine.here()


def check_after_collections(machine: Machine) -> None:
    for _ in range(2):
        collect(reopened(machine.vault), lambda _: ReplicationPolicy(), grace=0)
    machine.vault = reopened(machine.vault)
    machine.in_vault = machine.vault.machine(machine.id)
    machine.check(START)
    assert verify(machine.vault, data=True).findings == []


@pytest.mark.parametrize("grace", [0, GRACE])
def test_a_copy_that_finishes_after_the_erase_keeps_what_it_found_known(grace):
    first, second = two_machines()
    third = third_of(first)
    copy = begun(third)
    assert erase(reopened(first.vault), first.id).left >= 1 << 20
    collect(reopened(first.vault), lambda _: ReplicationPolicy(), grace=grace)
    finish(third, copy)
    check_after_collections(third)
    second.check(second.in_vault.points.latest().position)


def test_a_copy_that_finishes_just_before_the_leases_are_read_keeps_what_it_found_known():
    first, _ = two_machines()
    third = third_of(first)
    copies = [begun(third)]

    def after(name: str) -> None:
        if name.startswith(vault_names.COLLECTION) and copies:
            finish(third, copies.pop())

    erase(reopened(first.vault, Watched(first.vault.store, after)), first.id)
    assert not copies
    check_after_collections(third)


def test_packs_that_a_collector_pardons_beside_the_erase_are_left_to_it():
    first, _ = two_machines()
    third = third_of(first)
    copies: list[BaseCopy] = []

    def after(name: str) -> None:
        if name.startswith(vault_names.ERASED):  # the leases were read before
            collect(reopened(first.vault), lambda _: ReplicationPolicy(), grace=0)
            copies.append(begun(third))

    erase(reopened(first.vault, Watched(first.vault.store, after)), first.id)
    finish(third, copies[0])
    check_after_collections(third)


class Killed(Exception):
    """The process is gone."""


def test_a_kill_anywhere_leaves_the_machine_whole_or_erased_and_nobody_else_touched():
    kinds = set()
    for at in range(100):
        first, second = two_machines()
        left = [at]

        def after(_name: str, left: list[int] = left) -> None:
            if left[0] == 0:
                raise Killed
            left[0] -= 1

        try:
            erase(reopened(first.vault, Watched(first.vault.store, after)), first.id)
        except Killed:
            third = third_of(first)
            third.epoch = 0
            third.begin_epoch(None)
            check_after_collections(third)
            second.check(second.in_vault.points.latest().position)
            try:
                first.in_vault = reopened(first.vault).machine(first.id)
            except NotFound:
                kinds.add("erased")
                assert not list(first.vault.store.list(vault_names.machine_folder(first.id)))
            else:
                kinds.add("whole")
                first.check(first.in_vault.points.latest().position)
                erase(reopened(first.vault), first.id)
        else:
            break
    assert kinds == {"erased", "whole"}


def test_a_machine_that_lost_its_key_is_no_erased_one():
    first, second = two_machines()
    store = first.vault.store
    name = vault_names.machine_key(first.id)
    key = bytes(store.get(name))
    store.delete(name)
    vault = reopened(first.vault)
    with pytest.raises(Damaged, match="key is missing"):
        vault.machine(first.id)
    with pytest.raises(Damaged, match="key is missing"):
        vault.machine(first.id, create=True)
    assert name in [one.object for one in verify(vault).findings]
    for _ in range(2):
        done = collect(vault, lambda _: ReplicationPolicy(), grace=0)
        assert (done.deleted_objects, list(done.untouched), done.chunks_untouched) == (0, [first.id], True)
    # Nor does erasing another machine take what it may need.
    erase(vault, second.id)
    store.put(name, [key])
    first.in_vault = reopened(first.vault).machine(first.id)
    first.check(first.in_vault.points.latest().position)


def test_a_machine_that_lost_its_key_can_be_erased_and_an_erased_one_gets_no_new_key():
    first, second = two_machines()
    first.vault.store.delete(vault_names.machine_key(first.id))
    erase(reopened(first.vault), first.id)
    vault = reopened(first.vault)
    assert vault.machines() == [second.id]
    with pytest.raises(NotFound, match="erased"):
        vault.machine(first.id, create=True)
    with pytest.raises(NotFound, match="erased"):
        erase(vault, first.id)
    for _ in range(2):
        collect(vault, lambda _: ReplicationPolicy(), grace=0)
    assert len(list(vault.store.list("chunks/"))) == 1
    assert verify(vault, data=True).findings == []


def test_what_a_server_writes_of_an_erased_machine_is_collected():
    first, _ = two_machines()
    erase(reopened(first.vault), first.id)
    first.journal(segments=1, batches=1, count=5)  # by a process server that has its key in memory
    assert verify(reopened(first.vault)).findings == []
    for _ in range(2):
        collect(first.vault, lambda _: ReplicationPolicy(), grace=0)
    assert first.id not in first.vault.machines()


def test_a_vault_that_lost_the_key_of_its_chunks_says_so_and_gets_no_other():
    machine = Machine(memory_vault(), 84, {0: 1 << 20})
    store = machine.vault.store
    store.delete(vault_names.CHUNK_KEY)
    with pytest.raises(Damaged, match=r"keys/chunks is missing"):
        reopened(machine.vault)
    assert not list(store.list("keys/"))


def test_a_vault_whose_making_was_cut_short_gets_its_first_key_when_it_is_opened():
    vault = memory_vault()
    vault.store.delete(vault_names.CHUNK_KEY)
    machine = Machine(reopened(vault), 85, {0: 256 << 10})
    machine.fill()
    machine.begin_epoch(None)
    machine.vault = reopened(vault)
    machine.in_vault = machine.vault.machine(machine.id)
    machine.check(START)
