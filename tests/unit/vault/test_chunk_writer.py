"""Chunk packs while the store takes none: they do not grow, and nothing is sealed twice."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from blake3 import blake3
from obstore.store import MemoryStore
from tests.unit.vault.faulty_store import KillableStore

from farshore.formats import vault_names
from farshore.formats.batch import Buffer
from farshore.model.errors import Unreachable
from farshore.model.identifiers import CHUNK
from farshore.vault.keys.port import ChunkKeys
from farshore.vault.objects.chunks import PACK_TARGET, ChunkStore
from farshore.vault.objects.sealing import SealingKey
from farshore.vault.stores.remote import RemoteStore

KEY = bytes(range(32))
CALL = 48
"""Chunks in one call: 3 MiB."""
LENGTHS = np.full(CALL, CHUNK, np.uint32)


@pytest.fixture
def store() -> KillableStore:
    return KillableStore(RemoteStore(MemoryStore(), "memory:///"))


def calls(count: int) -> list[tuple[np.ndarray, bytes]]:
    random = np.random.default_rng(1)
    found = []
    for _ in range(count):
        data = random.integers(0, 256, CALL * CHUNK, np.uint8).tobytes()
        pieces = [data[at : at + CHUNK] for at in range(0, len(data), CHUNK)]
        digests = b"".join(blake3(piece, key=KEY).digest() for piece in pieces)
        found.append((np.frombuffer(digests, np.uint8).reshape(-1, 32), data))
    return found


def test_a_store_that_is_away_makes_no_pack_grow(store: KillableStore) -> None:
    chunks = ChunkStore(store, ChunkKeys(SealingKey(KEY), KEY))
    writer = chunks.writer()
    sent = calls(4)
    for hashes, data in sent[:3]:
        writer.add(hashes, LENGTHS, data)
    store.refusal = Unreachable("The store is away.", remedy="None: this is a test.")
    for _ in range(20):
        with pytest.raises(Unreachable):
            writer.add(sent[3][0], LENGTHS, sent[3][1])
        with pytest.raises(Unreachable):
            writer.flush()
    store.refusal = None
    writer.add(sent[3][0], LENGTHS, sent[3][1])
    writer.flush()
    sizes = [item.size for item in store.list(vault_names.CHUNKS)]
    assert max(sizes) < PACK_TARGET + 2 * CHUNK
    assert sum(sizes) < (len(sent) * CALL + 1) * CHUNK, "no chunk is there twice"
    assert chunks.known(np.concatenate([hashes for hashes, _ in sent])).all()


class Hanging(KillableStore):
    """The first put hangs until ``go``, then fails; ``another``: one that came later is done."""

    def __init__(self) -> None:
        super().__init__(RemoteStore(MemoryStore(), "memory:///"))
        self.entered, self.go, self.another = threading.Event(), threading.Event(), threading.Event()

    def put(self, name: str, buffers: Sequence[Buffer]) -> None:
        if not self.entered.is_set():
            self.entered.set()
            assert self.go.wait(60)
            raise Unreachable("The store broke the connection.", remedy="None: this is a test.")
        super().put(name, buffers)
        self.another.set()


def test_a_flush_leaves_out_no_pack_that_a_call_still_tries_to_store() -> None:
    store = Hanging()
    chunks = ChunkStore(store, ChunkKeys(SealingKey(KEY), KEY))
    writer = chunks.writer()
    sent = calls(4)
    for hashes, data in sent[:3]:
        writer.add(hashes, LENGTHS, data)
    with ThreadPoolExecutor(2) as threads:
        given_up = threads.submit(writer.add, sent[3][0], LENGTHS, sent[3][1])
        assert store.entered.wait(60)
        flushed = threads.submit(writer.flush)
        assert store.another.wait(60), "it stores what it can meanwhile"
        store.go.set()
        assert isinstance(given_up.exception(60), Unreachable)
        flushed.result(60)
    assert chunks.known(np.concatenate([hashes for hashes, _ in sent[:3]])).all()
