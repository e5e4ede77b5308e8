"""A vault of format 1 becomes one of format 2: nothing that it said is lost, whenever the upgrade is cut off, and who
has the upkeep key alone can go by what is under it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from tests.unit.vault.faulty_store import KillableStore, Killed

from farshore.configuration_server.vault_access import OpenVault
from farshore.formats import vault_names
from farshore.model.errors import Forbidden, NoSpace, WrongKey
from farshore.vault import OwnerKey, Vault, open_store
from farshore.vault.keys.port import ChunkKeys
from farshore.vault.objects import chunks, damage, directories
from farshore.vault.objects.chunks import ChunkStore
from farshore.vault.objects.sealing import SealingKey
from farshore.vault.reading.leases import LeaseKind, live_leases, take_lease
from farshore.vault.upkeep.condemned import read_list
from farshore.vault.upkeep.upgrading import upgrade
from farshore.vault.upkeep.verify import verify
from farshore.vault.vault import read_descriptor

GOLDEN = Path(__file__).parents[2] / "formats" / "golden"
KEY = bytes.fromhex(json.loads((GOLDEN / "vault-2.json").read_text())["key"])
MACHINE = "5f0c1f6e-0f3a-4c55-9d0a-0123456789ab"


class OneMachine:
    """Keys as a process server has them: no vault key behind them."""

    def __init__(self, vault: Vault, machine: str) -> None:
        self.upkeep = SealingKey(vault.upkeep_key.secret)
        self._chunks = ChunkKeys(vault.chunk_key, vault.chunk_hash_key)
        self._keys = {machine: vault.machine(machine).key}

    def chunks(self, _domain: int, _machine: str | None = None) -> ChunkKeys:
        return self._chunks

    def machine(self, machine: str, create: bool) -> SealingKey:
        if machine not in self._keys:
            raise Forbidden("Not served.", remedy="Ask elsewhere.")
        return self._keys[machine]


@pytest.fixture
def store(tmp_path):
    shutil.copytree(GOLDEN / "vault-2", tmp_path / "vault")
    return open_store(f"file://{tmp_path}/vault")


def told(vault: Vault, key: SealingKey) -> object:
    return read_list(vault.store, key).objects, read_list(vault.store, key).doomed, damage.listed(vault.store, key)


def test_an_upgrade_may_be_cut_off_before_any_write(tmp_path):
    at = 0
    while True:
        folder = tmp_path / str(at)
        shutil.copytree(GOLDEN / "vault-2", folder)
        store = KillableStore(open_store(f"file://{folder}"), at)
        vault = Vault.open_with_vault_key(store, KEY)
        alone = SealingKey(vault.upkeep_key.secret)
        before = told(vault, vault.upkeep_key)
        assert before[0]
        assert before[2]
        with pytest.raises(WrongKey):
            told(vault, alone)
        try:
            upgrade(vault)
        except Killed:
            store.at = None
            assert told(vault, vault.upkeep_key) == before
            now = read_descriptor(store)
            if now["format"] == 2 and "upgrading" not in now:  # killed as it tidied up
                assert told(vault, alone) == before
            upgrade(Vault.open_with_vault_key(store, KEY))
        else:
            break
        assert told(vault, alone) == before
        at += 1
    assert at >= 3
    assert (read_descriptor(store)["format"], "upgrading" in read_descriptor(store)) == (2, False)
    assert Vault.open(store, OwnerKey.from_passphrase("a second owner")).key_hex == KEY.hex()
    assert verify(vault, data=True).findings == []
    objects = list(store.list(""))
    upgrade(vault)
    assert list(store.list("")) == objects


@pytest.mark.parametrize("refusal", [NoSpace("full", remedy="Make room."), Forbidden("locked", remedy="Unlock it.")])
def test_a_vault_that_takes_nothing_opens_all_the_same_and_says_so(store, refusal):
    """Else the configuration server would not start, and no machine could be recovered."""
    stuck = KillableStore(store)
    stuck.refusal = refusal
    opened = OpenVault(store.url, Vault.open_with_vault_key(stuck, KEY))
    opened.bring_up_to_date()
    assert refusal.message in opened.check()
    machine = opened.vault.machine(MACHINE)
    newest = machine.points.latest().position
    machine.disks.open(newest, next(iter(machine.disks.sizes(newest)))).close()
    stuck.refusal = None
    opened.bring_up_to_date()
    assert opened.check() == ""
    assert read_descriptor(store)["format"] == 2


def test_keys_without_the_vault_key_open_what_they_are_for_and_nothing_else(store):
    vault = Vault.open_with_vault_key(store, KEY)
    upgrade(vault)
    held = Vault.with_keys(store, OneMachine(vault, MACHINE))
    machine = held.machine(MACHINE)
    assert len(machine.points.listed()) > 10
    newest = machine.points.latest().position
    machine.disks.open(newest, next(iter(machine.disks.sizes(newest)))).close()
    lease = take_lease(store, held.upkeep_key, LeaseKind.COPY, MACHINE)
    assert lease is not None
    assert [one.machine for one in live_leases(store, vault.upkeep_key, 0)] == [MACHINE]
    lease.release()
    with pytest.raises(Forbidden):
        held.machine("00000000-0000-0000-0000-000000000000")
    for refused in (
        lambda: held.key_hex,
        lambda: held.add_owner(OwnerKey.from_passphrase("mine")),
        lambda: held.remove_owner(OwnerKey.from_passphrase("a second owner")),
        lambda: held.erase_machine(MACHINE),
        lambda: held.stored_key(vault_names.machine_key(MACHINE)),
        lambda: upgrade(held),
    ):
        with pytest.raises(Forbidden, match="vault key"):
            refused()
    assert len(machine.points.listed()) > 10


@pytest.mark.parametrize("number", [1, 2, 3])
def test_an_older_vaults_chunks_are_found_from_local_disk_and_from_directories(tmp_path, monkeypatch, number):
    monkeypatch.setattr(directories, "_LEAST", 1)
    monkeypatch.setattr(chunks, "_WORTH_DIRECTORIES", 1)
    shutil.copytree(GOLDEN / f"vault-{number}", tmp_path / "vault")
    store = open_store(f"file://{tmp_path}/vault")
    key = bytes.fromhex(json.loads((GOLDEN / f"vault-{number}.json").read_text())["key"])
    vault = Vault.open_with_vault_key(store, key)
    upgrade(vault)
    domains = {vault_names.chunk_domain(item.name) for item in store.list(vault_names.CHUNKS)}
    assert domains
    for domain in domains:
        held = ChunkStore(store, vault.chunk_store(domain).keys, domain, tmp_path / str(domain))
        found = held._index_of
        packs, sizes = held._listed()
        hashes = [found(salt.tobytes(), int(size))[0] for salt, size in zip(packs, sizes, strict=True)]
        assert held.known(np.concatenate(hashes)).all()
        held.close()
        assert directories.renew(store, vault.chunk_store(domain).keys.seal, domain, packs, sizes) == 1
        fresh = ChunkStore(store, vault.chunk_store(domain).keys, domain)
        monkeypatch.setattr(fresh, "_index_of", None)  # reads no pack
        assert fresh.known(np.concatenate(hashes)).all()
        again = ChunkStore(store, vault.chunk_store(domain).keys, domain, tmp_path / str(domain))
        monkeypatch.setattr(again, "_index_of", None)
        assert again.known(np.concatenate(hashes)).all()
        again.close()
    assert verify(Vault.open_with_vault_key(store, key), data=True).findings == []
