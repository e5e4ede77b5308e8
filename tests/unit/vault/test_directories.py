"""Chunk directories: they spare reads, decide nothing, and are made again whatever happens to them."""

from __future__ import annotations

import secrets
from collections.abc import Sequence

import numpy as np
import pytest
from tests.unit.vault.faulty_store import KillableStore, Killed
from tests.unit.vault.synthetic import Machine, memory_vault
from tests.unit.vault.test_chunk_store import KEYS, Counting, packs_of, put

from farshore.formats import vault_names
from farshore.formats.batch import Buffer
from farshore.model.errors import Forbidden
from farshore.model.policy import ReplicationPolicy
from farshore.vault.objects import chunks as chunks_module
from farshore.vault.objects import directories as module
from farshore.vault.objects.chunks import ChunkStore
from farshore.vault.objects.directories import Directory, renew
from farshore.vault.stores.port import Store
from farshore.vault.upkeep.checking import bad_packs
from farshore.vault.upkeep.erasure import erase
from farshore.vault.upkeep.turns import maintain
from farshore.vault.upkeep.verify import verify
from farshore.vault.vault import Vault


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PACKS", 8)
    monkeypatch.setattr(module, "_LEAST", 4)
    monkeypatch.setattr(module, "_MOST_SMALL", 3)
    monkeypatch.setattr(chunks_module, "_WORTH_DIRECTORIES", 4)


@pytest.fixture
def store() -> Counting:
    return Counting()


def listed(store: Store) -> tuple[np.ndarray, np.ndarray]:
    return ChunkStore(store, KEYS)._listed()


def renewed(store: Store) -> int:
    return renew(store, KEYS.seal, 0, *listed(store))


def directories_of(store: Store) -> list[str]:
    return [item.name for item in store.list(vault_names.DIRECTORIES)]


def covered(store: Store) -> list[str]:
    """The packs that directories name, each as often as it is named."""
    found = []
    for item in store.list(vault_names.DIRECTORIES):
        directory = Directory(store, KEYS.seal, item.name, item.size)
        found += [vault_names.chunk_pack(salt.tobytes()) for salt in directory.salts]
    return sorted(found)


def test_who_starts_anew_reads_few_objects_and_what_came_since(store: Counting) -> None:
    mine = put(ChunkStore(store, KEYS), 1, packs=20)
    assert renewed(store) == 3
    assert renewed(store) == 0
    since = put(ChunkStore(store, KEYS), 2, packs=2)
    assert renewed(store) == 0, "two packs are not worth one"
    store.reads.clear()
    fresh = ChunkStore(store, KEYS)
    found, locators = fresh.find(np.concatenate([mine, since]))
    assert found.all()
    assert sum(name.startswith(vault_names.CHUNKS) for name in store.reads) == 2
    by_packs = ChunkStore(store, KEYS)
    for name in directories_of(store):
        store.delete(name)
    assert (by_packs.find(np.concatenate([mine, since]))[1] == locators).all(), "as the packs themselves say"


def test_a_pack_that_is_not_listed_is_not_held(store: Counting) -> None:
    chunks = ChunkStore(store, KEYS)
    mine = put(chunks, 1, packs=8)
    renewed(store)
    gone = chunks.find(mine[:1])[1][0]["salt"].tobytes()
    store.delete(vault_names.chunk_pack(gone))
    assert ChunkStore(store, KEYS).known(mine).tolist() == [False] * 4 + [True] * 28


def test_a_pack_that_is_shorter_than_a_directory_says_is_asked_itself(store: Counting) -> None:
    chunks = ChunkStore(store, KEYS)
    mine = put(chunks, 1, packs=8)
    renewed(store)
    short = vault_names.chunk_pack(chunks.find(mine[:1])[1][0]["salt"].tobytes())
    store.put(short, [bytes(store.get(short))[:700]])
    assert ChunkStore(store, KEYS).known(mine).tolist() == [False] * 4 + [True] * 28


@pytest.mark.parametrize("place", [0.5, 0.999])
def test_a_damaged_one_is_passed_over_and_replaced(store: Counting, place: float) -> None:
    mine = put(ChunkStore(store, KEYS), 1, packs=8)
    renewed(store)
    (name,) = directories_of(store)
    data = bytearray(store.get(name))
    data[int(len(data) * place)] ^= 1
    store.put(name, [data])
    assert ChunkStore(store, KEYS).known(mine).all()
    if place > 0.9:
        assert renewed(store) == 1
        assert name not in directories_of(store)
        assert covered(store) == packs_of(store)


def test_small_ones_become_one_and_what_is_mostly_gone_is_written_anew(store: Counting) -> None:
    for seed in range(4):
        put(ChunkStore(store, KEYS), seed, packs=5)
        renewed(store)
    assert covered(store) == packs_of(store)
    for name in packs_of(store)[::3] + packs_of(store)[1::3]:
        store.delete(name)
    renewed(store)
    left = packs_of(store)
    assert set(left) <= set(covered(store))
    assert len(covered(store)) <= 2 * len(left)
    for name in left:
        store.delete(name)
    renewed(store)
    assert not directories_of(store)


def test_a_kill_at_every_write(store: Counting, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PACKS", 12)
    put(ChunkStore(store, KEYS), 1, packs=5)
    renewed(store)
    mine = put(ChunkStore(store, KEYS), 2, packs=13)
    before = {item.name: bytes(store.get(item.name)) for item in store.list("")}
    whole = KillableStore(store)
    renewed(whole)
    assert whole.writes >= 3
    for at in range(whole.writes):
        for item in list(store.list("")):
            store.delete(item.name)
        for name, data in before.items():
            store.put(name, [data])
        with pytest.raises(Killed):
            renewed(KillableStore(store, at))
        assert ChunkStore(store, KEYS).known(mine).all()
        renewed(store)
        renewed(store)
        assert covered(store) == packs_of(store), "each once"


def covered_machine() -> Machine:
    machine = Machine(memory_vault(), 5, {0: 512 << 10})
    for _ in range(5):
        machine.fill()
        machine.begin_epoch(None)
    done = maintain(machine.vault, lambda _: ReplicationPolicy())
    assert done.directories == 1
    return machine


def test_verification_knows_a_directory_that_lies() -> None:
    machine = covered_machine()
    vault = machine.vault
    assert verify(vault).findings == []
    assert verify(vault, data=True).findings == []
    (item,) = vault.store.list(vault_names.DIRECTORIES)
    found = Directory(vault.store, vault.chunk_key, item.name, item.size)
    lying = module.Building(vault.chunk_key, 0)
    for number, one in enumerate(found.contents(np.ones(len(found.salts), np.bool_))):
        lying.add(one._replace(hashes=one.hashes[::-1]) if number == 2 else one)
    lying.put(vault.store)
    (finding,) = verify(vault).findings
    assert "1 packs" in finding.problem
    assert not finding.machine


def test_the_scrub_reads_directories() -> None:
    vault = covered_machine().vault
    (item,) = vault.store.list(vault_names.DIRECTORIES)
    assert bad_packs(vault, item) == {}
    data = bytearray(vault.store.get(item.name))
    data[100] ^= 1
    vault.store.put(item.name, [data])
    assert list(bad_packs(vault, item)) == [0]
    assert [one.object for one in verify(vault).findings] == [item.name]


def test_an_erased_machine_takes_its_hashes_along() -> None:
    machine = covered_machine()
    other = Machine(machine.vault, 6, {0: 256 << 10}, type(machine.id)(machine.id.replace("7", "4")))
    other.fill()
    other.begin_epoch(None)
    assert directories_of(machine.vault.store)
    erase(machine.vault, machine.id)
    assert not directories_of(machine.vault.store)
    assert verify(machine.vault).findings == []


class NoDirectories(KillableStore):
    """Refuses to store or delete directories, as a store may whose rights are by prefix."""

    def put(self, name: str, buffers: Sequence[Buffer]) -> None:
        if name.startswith(vault_names.DIRECTORIES):
            raise Forbidden("Not here.", remedy="None: this is a test.")
        super().put(name, buffers)


def test_upkeep_goes_on_where_no_directory_can_be_written(caplog: pytest.LogCaptureFixture) -> None:
    machine = Machine(memory_vault(), 5, {0: 512 << 10})
    for _ in range(5):
        machine.fill()
        machine.begin_epoch(None)
    vault = machine.vault
    refusing = Vault.with_keys(NoDirectories(vault.store), vault._keys)
    done = maintain(refusing, lambda _: ReplicationPolicy())
    assert done.collection is not None
    assert done.collection.alive
    assert done.directories == 0
    assert "Chunk directories were not renewed" in caplog.text
    assert not directories_of(vault.store)


def test_a_machine_is_erased_though_its_domains_key_is_lost() -> None:
    machine = Machine(memory_vault(), 5, {0: 512 << 10})
    machine.fill()
    machine.domain = machine.vault.domain("apart")
    machine.begin_epoch(None)
    machine.vault.store.delete(vault_names.chunk_key(machine.domain))
    vault = Vault.with_keys(machine.vault.store, machine.vault._keys)
    erase(vault, machine.id)
    assert not packs_of(vault.store)


def test_domains_have_their_own(store: Counting) -> None:
    mine = put(ChunkStore(store, KEYS), 1, packs=6)
    theirs = put(ChunkStore(store, KEYS, 7), 2, packs=6)
    renewed(store)
    assert renew(store, KEYS.seal, 7, *ChunkStore(store, KEYS, 7)._listed()) == 1
    moved = directories_of(store)[-1]
    store.put(vault_names.directory(secrets.token_bytes(16), 0), [bytes(store.get(moved))])
    for domain, here, elsewhere in ((0, mine, theirs), (7, theirs, mine)):
        fresh = ChunkStore(store, KEYS, domain)
        assert fresh.known(here).all()
        assert not fresh.known(elsewhere).any()


def test_one_of_a_newer_release_is_left_alone(store: Counting) -> None:
    mine = put(ChunkStore(store, KEYS), 1, packs=8)
    renewed(store)
    (name,) = directories_of(store)
    data = bytearray(store.get(name))
    for at in (8, len(data) - 128 + 8):
        data[at] = 9  # the container's version
    newer = vault_names.directory(secrets.token_bytes(16), 0)
    store.put(newer, [data])
    store.delete(name)
    assert ChunkStore(store, KEYS).known(mine).all()
    assert renewed(store) == 1
    assert newer in directories_of(store)
