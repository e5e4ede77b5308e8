"""What a domain holds, as its index on local disk tells it: never more than the vault's listing does."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from blake3 import blake3
from obstore.store import MemoryStore
from tests.unit.vault.faulty_store import KillableStore
from tests.unit.vault.synthetic import Machine, memory_vault

from farshore.formats import vault_names
from farshore.formats.batch import Buffer
from farshore.vault.keys.port import ChunkKeys
from farshore.vault.objects import chunks as chunks_module
from farshore.vault.objects.chunks import ChunkStore
from farshore.vault.objects.sealing import SealingKey
from farshore.vault.stores.port import Listed, Store
from farshore.vault.stores.remote import RemoteStore
from farshore.vault.vault import Vault

KEYS = ChunkKeys(SealingKey(bytes(range(32))), bytes(range(32)))
SIZE = 1000


class Counting(KillableStore):
    """Counts what is read, by name."""

    def __init__(self) -> None:
        super().__init__(RemoteStore(MemoryStore(), "memory:///"))
        self.reads: Counter[str] = Counter()
        self.listed: threading.Event | None = None
        self.has_read: threading.Event | None = None
        self.go = threading.Event()

    def get_range(self, name: str, start: int, length: int) -> Buffer:
        self.reads[name] += 1
        found = super().get_range(name, start, length)
        if self.has_read is not None:
            self.has_read.set()
            assert self.go.wait(60)
        return found

    def list(self, prefix: str, after: str = "") -> Iterator[Listed]:
        found = list(super().list(prefix, after))
        if self.listed is not None:
            self.listed.set()
            assert self.go.wait(60)
        yield from found


@pytest.fixture
def store() -> Counting:
    return Counting()


def put(chunks: ChunkStore, seed: int, packs: int = 1) -> np.ndarray:
    """Store packs of four chunks; answer all hashes."""
    random = np.random.default_rng(seed)
    hashes: list[bytes] = []
    for _ in range(packs):
        writer = chunks.writer()
        pieces = [random.integers(0, 256, SIZE, np.uint8).tobytes() for _ in range(4)]
        digests = [blake3(piece, key=KEYS.hash).digest() for piece in pieces]
        rows = np.frombuffer(b"".join(digests), np.uint8).reshape(-1, 32)
        writer.add(rows, np.full(4, SIZE, np.uint32), b"".join(pieces))
        writer.flush()
        hashes += digests
    return np.frombuffer(b"".join(hashes), np.uint8).reshape(-1, 32)


def packs_of(store: Store) -> Sequence[str]:
    return [item.name for item in store.list(vault_names.CHUNKS)]


def test_a_restart_reads_only_what_is_new(store: Counting, tmp_path: Path) -> None:
    first = ChunkStore(store, KEYS, folder=tmp_path)
    mine = put(first, 1, packs=20)
    first.close()
    elsewhere = put(ChunkStore(store, KEYS), 2, packs=3)
    store.reads.clear()
    again = ChunkStore(store, KEYS, folder=tmp_path)
    assert again.known(np.concatenate([mine, elsewhere])).all()
    assert len(store.reads) == 3
    again.close()


def test_a_pack_that_was_collected_while_nobody_ran_is_not_held(store: Counting, tmp_path: Path) -> None:
    first = ChunkStore(store, KEYS, folder=tmp_path)
    mine = put(first, 1, packs=5)
    first.close()
    gone = first.find(mine[:1])[1][0]["salt"].tobytes()
    first.close()
    store.delete(vault_names.chunk_pack(gone))
    again = ChunkStore(store, KEYS, folder=tmp_path)
    assert again.known(mine).tolist() == [False] * 4 + [True] * 16
    again.close()


def test_a_pack_that_is_forgotten_is_not_found_and_is_again_after_a_restart(store: Counting, tmp_path: Path) -> None:
    chunks = ChunkStore(store, KEYS, folder=tmp_path)
    mine = put(chunks, 1, packs=3)
    condemned = vault_names.chunk_pack(chunks.find(mine[:1])[1][0]["salt"].tobytes())
    chunks.forget({condemned, "chunks/in-00000007/aa/" + "a" * 32, "chunks/no-pack"})
    chunks.refresh()
    assert chunks.known(mine).tolist() == [False] * 4 + [True] * 8
    chunks.close()
    again = ChunkStore(store, KEYS, folder=tmp_path)
    assert again.known(mine).all(), "a collector has pardoned it"
    again.forget({condemned})
    again.refresh()
    assert not again.known(mine[:4]).any()
    again.close()


def test_what_is_published_while_others_list_stays_found(store: Counting, tmp_path: Path) -> None:
    chunks = ChunkStore(store, KEYS, folder=tmp_path)
    before = put(chunks, 1, packs=2)
    chunks.refresh()
    store.listed = threading.Event()
    refreshing = threading.Thread(target=chunks.refresh)
    refreshing.start()
    assert store.listed.wait(60)
    mine = put(chunks, 2, packs=2)  # its listing does not have these
    assert chunks.known(np.concatenate([before, mine])).all(), "and nobody waits for it"
    store.go.set()
    refreshing.join(60)
    assert chunks.known(np.concatenate([before, mine])).all()
    chunks.close()


def test_of_two_refreshes_the_earlier_listing_brings_nothing_back(store: Counting) -> None:
    """A pack is stored by others, listed by one refresh, deleted, and missed by the next."""
    chunks = ChunkStore(store, KEYS)
    chunks.refresh()
    others = put(ChunkStore(store, KEYS), 3)
    store.has_read = threading.Event()
    first = threading.Thread(target=chunks.refresh)
    first.start()
    assert store.has_read.wait(60)
    for name in packs_of(store):
        store.delete(name)
    second = threading.Thread(target=chunks.refresh)
    second.start()
    second.join(0.5)  # it must not end before the first does; this only gives it a chance to
    store.go.set()
    first.join(60)
    second.join(60)
    assert not chunks.known(others).any()


def test_what_was_forgotten_stays_so_when_it_is_closed_beside_a_refresh(store: Counting, tmp_path: Path) -> None:
    """The folder still has the pack: nothing may be answered from it before the vault was listed again."""
    chunks = ChunkStore(store, KEYS, folder=tmp_path)
    mine = put(chunks, 1, packs=3)
    chunks.close()
    condemned = vault_names.chunk_pack(chunks.find(mine[:1])[1][0]["salt"].tobytes())
    chunks.forget({condemned})
    store.listed = threading.Event()
    refreshing = threading.Thread(target=chunks.refresh)
    refreshing.start()
    assert store.listed.wait(60)
    chunks.close()
    store.go.set()
    refreshing.join(60)
    assert chunks.known(mine).tolist() == [False] * 4 + [True] * 8
    chunks.close()
    assert chunks.known(mine).tolist() == [False] * 4 + [True] * 8, "opened again"
    store.delete(condemned)
    chunks.close()
    assert chunks.known(mine).tolist() == [False] * 4 + [True] * 8
    chunks.close()


def test_a_copy_that_outlives_its_servers_end_is_answered_by_the_vault(store: Counting, tmp_path: Path) -> None:
    chunks = ChunkStore(store, KEYS, folder=tmp_path)
    mine = put(chunks, 1, packs=3)
    assert chunks.known(mine).all()
    chunks.close()
    other = ChunkStore(store, KEYS, folder=tmp_path)
    assert other.known(mine).all()
    store.delete(packs_of(store)[0])
    assert np.count_nonzero(chunks.known(mine)) == 8
    more = put(chunks, 2)
    assert chunks.known(more).all()
    other.close()


@pytest.mark.parametrize("domain", [0, 7])
def test_a_large_domain_is_listed_folder_by_folder(
    store: Counting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, domain: int
) -> None:
    monkeypatch.setattr(chunks_module, "_WORTH_SPLITTING", 1)
    first = ChunkStore(store, KEYS, domain, tmp_path)
    mine = put(first, 1, packs=20)
    put(ChunkStore(store, KEYS, 7 - domain), 2, packs=5)
    for name in ("chunks/zz/notes", "chunks/00/x"):
        store.put(name, [b"not a pack"])
    first.close()
    elsewhere = put(ChunkStore(store, KEYS, domain), 3, packs=5)
    gone = first.find(mine[:1])[1][0]["salt"].tobytes()
    first.close()
    store.delete(vault_names.chunk_pack(gone, domain))
    asked: list[str] = []
    whole = store.list
    monkeypatch.setattr(store, "list", lambda prefix, after="": asked.append(prefix) or whole(prefix, after))
    again = ChunkStore(store, KEYS, domain, tmp_path)
    assert again.known(np.concatenate([mine, elsewhere])).tolist() == [False] * 4 + [True] * 96
    assert len([prefix for prefix in asked if prefix.startswith(vault_names.chunk_packs(domain))]) >= 256
    again.close()


def test_an_object_that_is_no_pack_is_passed_over(store: Counting) -> None:
    chunks = ChunkStore(store, KEYS)
    mine = put(chunks, 1)
    for name in ("chunks/zz/notes", "chunks/00/" + "ff" * 16, "chunks/ff/" + "ff" * 16):
        store.put(name, [b"not a pack"])
    fresh = ChunkStore(store, KEYS)
    assert fresh.known(mine).all()
    assert fresh.known(np.zeros((1, 32), np.uint8)).tolist() == [False]


def test_a_vault_has_a_folder_for_each_of_its_domains_and_copies_start_from_it(tmp_path: Path) -> None:
    made = memory_vault()
    first = Vault(made.store, made.id, made._keys, indexes=tmp_path)
    machine = Machine(first, 1, {0: 512 << 10})
    machine.fill()
    assert machine.begin_epoch(None) > 0
    machine.domain = first.domain("finance")
    assert machine.begin_epoch(None) > 0
    assert machine.vault.over(made.store, 0).chunk_store().known(np.zeros((1, 32), np.uint8)).tolist() == [False]
    first.close()
    folder = tmp_path / made.id
    assert {one.name for one in folder.iterdir()} == {"00000000", f"{machine.domain:08x}"}
    assert all(list(one.glob("run-*")) for one in folder.iterdir())
    again = Vault(made.store, made.id, made._keys, indexes=tmp_path)
    machine.vault, machine.in_vault = again, again.machine(machine.id)
    assert machine.begin_epoch(None) == 0, "nothing is sent twice"
    machine.check(machine.in_vault.points.latest().position)
    # What no map names is collected, and what comes back from the folder is not taken for held.
    for name in packs_of(made.store):
        made.store.delete(name)
    third = Vault(made.store, made.id, made._keys, indexes=tmp_path)
    again.close()
    machine.vault, machine.in_vault = third, third.machine(machine.id)
    assert machine.begin_epoch(None) > 0
    machine.check(machine.in_vault.points.latest().position)
    third.close()
