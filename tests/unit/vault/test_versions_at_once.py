"""Many who change a versioned object at once, in every order: no change is lost, nobody believes a stale one."""

from __future__ import annotations

import pytest
from tests.unit.vault.interleaved_store import Schedule
from tests.unit.vault.synthetic import memory_vault

from farshore.vault import OwnerKey, Vault
from farshore.vault.upkeep.condemned import read_list, write_next


@pytest.mark.parametrize("seed", range(40))
def test_no_change_of_the_condemned_is_lost(seed: int) -> None:
    vault = memory_vault()
    schedule = Schedule(seed)
    store = schedule.store(vault.store)
    written: list[str] = []

    def change(number: int) -> None:
        for step in range(3):
            before = read_list(store, vault.upkeep_key)
            name = f"object-{number}-{step}"
            after = write_next(store, vault.upkeep_key, before, {**before.objects, name: 1}, set())
            if after is not None:
                assert after.version == before.version + 1
                written.append(name)

    schedule.run([lambda number=number: change(number) for number in range(4)])
    last = read_list(vault.store, vault.upkeep_key)
    assert set(written) <= last.objects.keys()
    assert len(last.objects) == last.version
    assert len(written) > 3


@pytest.mark.parametrize("seed", range(10))
def test_no_owner_is_lost(seed: int) -> None:
    vault = memory_vault()
    schedule = Schedule(seed)
    store = schedule.store(vault.store)
    keys = [OwnerKey(bytes([number]) * 32, "key-file") for number in range(1, 5)]
    first = OwnerKey(bytes(32), "key-file")
    schedule.run([lambda key=key: Vault.open(store, first).add_owner(key) for key in keys])
    for key in (first, *keys):
        assert Vault.open(vault.store, key).id == vault.id
