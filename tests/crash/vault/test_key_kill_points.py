"""A kill before any write of a change of keys: the vault is never locked, no removed key opens it once that is told,
and the same command again completes the work."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from tests.unit.vault.faulty_store import KillableStore, Killed
from tests.unit.vault.synthetic import MACHINE, Machine, memory_vault
from tests.unit.vault.test_keys import two_machines

from farshore.formats import vault_names
from farshore.model.errors import NotFound, Refused, WrongKey
from farshore.model.policy import ReplicationPolicy
from farshore.vault import OwnerKey, Vault, open_store
from farshore.vault.upkeep.collection import collect
from farshore.vault.upkeep.erasure import erase
from farshore.vault.upkeep.verify import verify

OLD, NEW = OwnerKey(bytes(32), "key-file"), OwnerKey(bytes(31) + b"\1", "key-file")


def opens(vault: Vault, owner: OwnerKey) -> bool:
    try:
        return Vault.open(vault.store, owner).key_hex == vault.key_hex
    except WrongKey:
        return False


def killed_at_every_write(act: Callable[[KillableStore], None], make: Callable[[], KillableStore]) -> int:
    """Run ``act`` on a fresh store, killed before its first write, its second …; the number of writes of a whole run.

    ``act`` is to check what it can itself when it is run again on the same store, which then lets it through.
    """
    at = 0
    while True:
        store = make()
        store.at = at
        try:
            act(store)
        except Killed:
            store.at = None
            act(store)
            at += 1
        else:
            return at


def test_making_a_vault():
    def act(store: KillableStore) -> None:
        Vault.create(store, OLD).machine(MACHINE, create=True)
        Vault.open(store, OLD).machine(MACHINE)

    assert killed_at_every_write(act, lambda: KillableStore(open_store("memory:///"))) >= 2


def test_a_vault_whose_making_was_never_answered_is_made_again_and_one_in_use_is_not():
    store = open_store("memory:///")
    made = Vault.create(store, OLD)
    with pytest.raises(Refused, match="already"):
        Vault.create(store, NEW)
    assert Vault.create(store, OLD).key_hex == made.key_hex
    made.machine(MACHINE, create=True)
    with pytest.raises(Refused, match="already"):
        Vault.create(store, OLD)


def test_adding_and_removing_an_owner():
    machine = Machine(memory_vault(), 91, {0: 128 << 10})
    machine.fill()
    machine.begin_epoch(None)
    machine.journal(segments=2, batches=1, count=4)
    latest = machine.in_vault.points.latest().position
    total = 0
    for first, second in ((OLD, NEW), (NEW, OLD)):
        at = 0
        while True:
            store = KillableStore(machine.vault.store, at)
            vault = Vault.open(store, first)
            added = False
            try:
                vault.add_owner(second)
                added = True
                assert opens(machine.vault, first)
                assert opens(machine.vault, second)
                vault.remove_owner(first)
            except Killed:
                assert opens(machine.vault, first) or opens(machine.vault, second)
                assert not added or opens(machine.vault, second)
            else:
                break
            finally:
                machine.check(latest)
            # The same again: what is there already may be added once more, or is gone.
            again = Vault.open(machine.vault.store, second if opens(machine.vault, second) else first)
            if not opens(machine.vault, second):
                again.add_owner(second)
            if opens(machine.vault, first):
                again.remove_owner(first)
            assert opens(machine.vault, second)
            assert not opens(machine.vault, first)
            # Back, for the next kill.
            again.add_owner(first)
            Vault.open(machine.vault.store, first).remove_owner(second)
            at += 1
            total += 1
        assert opens(machine.vault, second)
        assert not opens(machine.vault, first)
        # Nor does anything that lies about in the store.
        names = [vault_names.DESCRIPTOR, *(item.name for item in machine.vault.store.list(vault_names.DESCRIPTORS))]
        for name in names:
            slots = json.loads(bytes(machine.vault.store.get(name)))["slots"]
            assert [first.unwrap(slot, machine.vault.id) for slot in slots] == [None]
        machine.check(latest)
    assert total >= 8


def test_erasing_a_machine():
    at = 0
    while True:
        first, second = two_machines()
        store = KillableStore(first.vault.store, at)
        vault = Vault.open_with_vault_key(store, bytes.fromhex(first.vault.key_hex))
        try:
            erase(vault, first.id)
        except Killed:
            second.check(second.in_vault.points.latest().position)
            store.at = None
        else:
            break
        fresh = Vault.open_with_vault_key(store, bytes.fromhex(first.vault.key_hex))
        if first.id in fresh.machines():
            try:
                erase(fresh, first.id)
            except NotFound:  # its key went before the kill: the collector takes the rest
                for _ in range(2):
                    collect(fresh, lambda _: ReplicationPolicy(), grace=0)
        with pytest.raises(NotFound, match="erased"):
            Vault.open_with_vault_key(store, bytes.fromhex(first.vault.key_hex)).machine(first.id)
        second.check(second.in_vault.points.latest().position)
        assert verify(second.vault, data=True).findings == []
        at += 1
    assert at > 5
