"""Verification finds every kind of damage and says which disk, bytes and points it affects."""

from __future__ import annotations

import os
import time

import pytest
from tests.unit.vault.synthetic import Machine, memory_vault, new_vault

from farshore.formats import vault_names
from farshore.model.errors import Refused, WrongKey
from farshore.model.policy import ReplicationPolicy
from farshore.vault import OwnerKey, Vault
from farshore.vault.stores.port import Listed
from farshore.vault.upkeep.compaction import Tiers, compact
from farshore.vault.upkeep.retention import apply_retention
from farshore.vault.upkeep.turns import maintain, one_policy, usage
from farshore.vault.upkeep.verify import verify

MINUTE = 60 * 1_000_000_000


@pytest.fixture
def machine():
    made = Machine(memory_vault(), 41, {0: 2 << 20, 1: 512 << 10})
    made.fill()
    made.step = 10 * MINUTE
    made.begin_epoch(None)
    made.journal(segments=24, batches=1, count=10)
    compact(made.in_vault, Tiers(segments=4, fan=2))
    apply_retention(made.in_vault, ReplicationPolicy(hot_window=3600, keep_hourly=1, keep_daily=0))
    return made


def names(machine: Machine, part: str) -> list[str]:
    return [item.name for item in machine.vault.store.list("") if part in item.name]


def flip(machine: Machine, name: str, place: int) -> None:
    data = bytearray(machine.vault.store.get(name))
    data[place] ^= 1
    machine.vault.store.put(name, [data])


def test_a_sound_vault_has_no_findings(machine):
    report = verify(machine.vault, data=True)
    assert report.findings == []
    assert report.packs > 50
    assert verify(machine.vault).packs == 0
    assert 0 < verify(machine.vault, data=True, sample=0.3, seed=1).packs < report.packs


@pytest.mark.parametrize("part", ["/segments/", "/layers/", "/data/", "/bases/", "chunks/"])
@pytest.mark.parametrize("place", [70, -300, -40])
def test_an_altered_object_is_found(machine, part, place):
    name = names(machine, part)[-1]
    flip(machine, name, place)
    findings = verify(machine.vault, data=True).findings
    assert any(finding.object == name or name in finding.problem for finding in findings)


def test_a_damaged_chunk_names_disk_and_bytes(machine):
    flip(machine, names(machine, "chunks/")[0], 100)
    assert verify(machine.vault).findings == []
    located = [finding for finding in verify(machine.vault, data=True).findings if finding.disk >= 0]
    assert [(one.end - one.start, one.from_position) for one in located] == [(65536, "1:0")]


def test_a_missing_chunk_pack_and_a_missing_segment_are_found_without_reading_data(machine):
    machine.vault.store.delete(names(machine, "chunks/")[0])
    hot = names(machine, "/segments/")[-2]
    machine.vault.store.delete(hot)
    findings = verify(machine.vault).findings
    assert any("bases" in one.object and one.disk in (0, 1) for one in findings)
    assert any("missing" in one.problem and one.from_position.startswith("1:") for one in findings)


def test_upkeep_does_all_and_usage_adds_up(machine):
    policy = one_policy(ReplicationPolicy(hot_window=3600, keep_hourly=1, keep_daily=0))
    before = usage(machine.vault, policy)
    assert before.reclaimable > 0
    listed = sum(item.size for item in machine.vault.store.list(""))
    assert before.total == listed
    maintain(machine.vault, policy, grace=0)
    done = maintain(machine.vault, policy, grace=0)
    assert done.troubles == {}
    assert done.collection is not None
    after = usage(machine.vault, policy)
    assert after.total < before.total
    assert after.reclaimable == 0
    machine.check(machine.in_vault.points.latest().position)
    assert verify(machine.vault, data=True).findings == []


def test_upkeep_removes_what_dead_writers_left_and_nothing_that_is_being_written(tmp_path):
    machine = Machine(new_vault(tmp_path)[0], 42, {0: 256 << 10})
    machine.begin_epoch(None)
    machine.journal(segments=2, batches=1, count=10)
    folders = [tmp_path / "vault", *(tmp_path / "vault" / "machines" / machine.id / "segments").rglob("0*")]
    folder = next(path for path in folders[1:] if path.is_dir())
    left, fresh = folder / ".part-1-2-3", folder / ".part-1-2-4"
    for path in (left, fresh):
        path.write_bytes(b"half")
    long_ago = time.time() - 25 * 3600
    os.utime(left, (long_ago, long_ago))
    done = maintain(machine.vault, one_policy(ReplicationPolicy()))
    assert (done.swept, left.exists(), fresh.exists()) == (1, False, True)
    assert maintain(machine.vault, one_policy(ReplicationPolicy())).swept == 0
    machine.check(machine.in_vault.points.latest().position)
    assert maintain(memory_vault(), one_policy(ReplicationPolicy())).swept == 0


def test_owner_keys_rotate_without_touching_data(machine):
    store = machine.vault.store
    old, new = OwnerKey(bytes(32), "key-file"), OwnerKey.from_passphrase("a new one")

    def data() -> list[Listed]:
        descriptors = (vault_names.DESCRIPTOR, vault_names.DESCRIPTORS)
        return [item for item in store.list("") if not item.name.startswith(descriptors)]

    before = data()
    machine.vault.add_owner(new)
    assert Vault.open(store, old).key_hex == Vault.open(store, new).key_hex
    machine.vault.remove_owner(old)
    assert data() == before
    with pytest.raises(WrongKey):
        Vault.open(store, old)
    with pytest.raises(WrongKey):
        machine.vault.remove_owner(old)
    with pytest.raises(Refused, match="only key"):
        machine.vault.remove_owner(new)
    assert Vault.open(store, new).machines() == [machine.id]
