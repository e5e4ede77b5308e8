"""Who owns a vault, and what one who does not any more is kept from."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from farshore.formats import vault_names
from farshore.formats.vault_names import RecordName
from farshore.model.errors import Displaced, Refused, WrongState
from farshore.vault import OwnerKey, Store, Vault, open_store
from farshore.vault.ownership import (
    EPOCHS_APART,
    How,
    Owner,
    Ownership,
    claim,
    epochs_after,
    newest_owner,
    pardon,
)
from farshore.vault.records import read_records, record_names, write_record
from farshore.vault.stores.owned import OwnedStore
from farshore.vault.upkeep.condemned import read_list, write_next

FIRST = Owner("11111111-aaaa", 0, 1_000_000_000, How.MADE, "https://dr.example.com")
SECOND = Owner("22222222-bbbb", 0, 2_000_000_000, How.ADOPTED, "https://far.example.com", EPOCHS_APART)


@pytest.fixture
def vault(tmp_path: Path) -> Vault:
    key = OwnerKey.generate_file(tmp_path / "owner.key")
    return Vault.create(open_store(f"file://{tmp_path}/vault"), key)


def test_each_generation_is_given_once(vault: Vault) -> None:
    assert newest_owner(vault.store, vault.upkeep_key) is None
    first = claim(vault.store, vault.upkeep_key, None, FIRST)
    assert newest_owner(vault.store, vault.upkeep_key) == first == dataclasses.replace(FIRST, generation=1)
    second = claim(vault.store, vault.upkeep_key, first, SECOND)
    with pytest.raises(WrongState, match="22222222-bbbb"):
        claim(vault.store, vault.upkeep_key, first, FIRST)
    assert newest_owner(vault.store, vault.upkeep_key) == second


def test_who_is_displaced_hears_by_whom_and_writes_nothing_more(vault: Vault) -> None:
    first = claim(vault.store, vault.upkeep_key, None, FIRST)
    told: list[Displaced] = []
    ownership = Ownership(vault.store, vault.upkeep_key, first.generation, told.append)
    guarded = OwnedStore(vault.store, ownership)
    guarded.put(f"{vault_names.MACHINES}x/segments/1", [b"1"])
    claim(vault.store, vault.upkeep_key, first, SECOND)
    with pytest.raises(Displaced, match=r"installation 22222222-bbbb at https://far\.example\.com \(adopted 1970"):
        guarded.put_if_absent(f"{vault_names.MACHINES}x/segments/2", [b"2"])
    with pytest.raises(Displaced):
        guarded.delete(f"{vault_names.MACHINES}x/segments/1")
    with pytest.raises(Displaced):
        guarded.put("upkeep/scrub", [b"3"])
    assert bytes(guarded.get(f"{vault_names.MACHINES}x/segments/1")) == b"1"
    guarded.put(f"{vault_names.LEASES}read-1", [b"it may still read"])
    assert len(told) == 1
    assert "farshore down" in told[0].remedy
    assert [item.name for item in vault.store.list(vault_names.MACHINES)] == [f"{vault_names.MACHINES}x/segments/1"]


def test_a_late_look_is_enough_for_what_belongs_to_no_machine(vault: Vault) -> None:
    now = [0.0]
    first = claim(vault.store, vault.upkeep_key, None, FIRST)
    ownership = Ownership(vault.store, vault.upkeep_key, first.generation, monotonic=lambda: now[0])
    guarded = OwnedStore(vault.store, ownership)
    guarded.put("chunks/00/1", [b"1"])
    claim(vault.store, vault.upkeep_key, first, SECOND)
    guarded.put("chunks/00/2", [b"within a second: nothing that anybody relies on"])
    now[0] = 1.5
    with pytest.raises(Displaced):
        guarded.put("chunks/00/3", [b"3"])


def test_a_successor_that_cannot_be_read_displaces_all_the_same(vault: Vault) -> None:
    first = claim(vault.store, vault.upkeep_key, None, FIRST)
    vault.store.put(vault_names.owner(2), [b"not sealed by anybody"])
    with pytest.raises(Displaced, match="another installation"):
        Ownership(vault.store, vault.upkeep_key, first.generation).check()


@pytest.mark.parametrize(("seen", "begins"), [(0, 1), (1, 2), (EPOCHS_APART, 2), (EPOCHS_APART + 1, 3)])
def test_generations_number_their_epochs_apart(seen: int, begins: int) -> None:
    assert epochs_after(seen) == begins * EPOCHS_APART
    assert epochs_after(seen) - seen >= EPOCHS_APART


def test_there_is_an_end_to_taking_over() -> None:
    with pytest.raises(Refused, match="too many times"):
        epochs_after((1 << 32) - EPOCHS_APART)


def test_a_collector_of_the_former_owner_dooms_nothing_after_the_pardon(vault: Vault) -> None:
    key, store = vault.upkeep_key, vault.store
    before = write_next(store, key, read_list(store, key), {"a": 1, "b": 2}, {"b"})
    assert before is not None
    pardon(store, key)
    assert write_next(store, key, before, {"a": 1}, {"a", "b"}) is None, "it went by the list from before"
    after = read_list(store, key)
    assert (dict(after.objects), after.doomed) == ({"b": 2}, {"b"}), "what is doomed may be gone already"


def written(store: Store, vault: Vault, generation: int, version: int, rows: list[dict[str, object]]) -> bool:
    name = RecordName("policies", generation, version)
    return write_record(store, vault.installation_key, name, rows, now=5)


def test_the_newest_record_of_a_kind_counts_and_replaces_the_older(vault: Vault) -> None:
    store = vault.store
    assert written(store, vault, 1, 1, [{"name": "default"}])
    assert written(store, vault, 1, 2, [{"name": "gold"}])
    found = read_records(store, vault.installation_key)
    assert [(kind, one.rows, one.written) for kind, one in found.items()] == [("policies", [{"name": "gold"}], 5)]
    assert record_names(store) == {"installation/policies/": [RecordName("policies", 1, 2)]}
    assert not written(store, vault, 1, 1, [{"name": "late"}])
    assert not written(store, vault, 1, 2, [{"name": "at the same moment"}])
    assert read_records(store, vault.installation_key)["policies"].rows == [{"name": "gold"}]


def test_what_a_displaced_installation_still_writes_never_counts(vault: Vault) -> None:
    store = vault.store
    assert written(store, vault, 2, 1, [{"name": "of the successor"}])
    assert not written(store, vault, 1, 99, [{"name": "of the former"}])
    assert read_records(store, vault.installation_key)["policies"].rows == [{"name": "of the successor"}]


def test_records_of_unknown_kinds_stay(vault: Vault) -> None:
    store = vault.store
    later = RecordName("things-of-a-later-release", 1, 7)
    assert write_record(store, vault.installation_key, later, [{"odd": [1, {"two": None}]}], now=1)
    assert written(store, vault, 2, 1, [])
    assert read_records(store, vault.installation_key)["things-of-a-later-release"].rows == [
        {"odd": [1, {"two": None}]}
    ]


def test_a_process_server_cannot_open_records(vault: Vault) -> None:
    assert written(vault.store, vault, 1, 1, [{"name": "default"}])
    assert vault.installation_key.id not in (vault.upkeep_key.id, vault.chunk_key.id)
