"""Chunk packs while the store takes none: they do not grow, and nothing is sealed twice."""

from __future__ import annotations

import numpy as np
import pytest
from blake3 import blake3
from obstore.store import MemoryStore
from tests.unit.vault.faulty_store import KillableStore

from farshore.formats import vault_names
from farshore.model.errors import Unreachable
from farshore.model.identifiers import CHUNK
from farshore.vault.chunks import PACK_TARGET, ChunkStore
from farshore.vault.sealing import SealingKey
from farshore.vault.stores.remote import RemoteStore

KEY = bytes(range(32))
CALL = 48
"""Chunks in one call: 3 MiB."""


def test_a_store_that_is_away_makes_no_pack_grow() -> None:
    store = KillableStore(RemoteStore(MemoryStore(), "memory:///"))
    chunks = ChunkStore(store, SealingKey(KEY), KEY)
    writer = chunks.writer()
    random = np.random.default_rng(1)

    def call() -> tuple[np.ndarray, bytes]:
        data = random.integers(0, 256, CALL * CHUNK, np.uint8).tobytes()
        pieces = [data[at : at + CHUNK] for at in range(0, len(data), CHUNK)]
        digests = b"".join(blake3(piece, key=KEY).digest() for piece in pieces)
        return np.frombuffer(digests, np.uint8).reshape(-1, 32), data

    lengths = np.full(CALL, CHUNK, np.uint32)
    sent = [call() for _ in range(4)]
    for hashes, data in sent[:3]:
        writer.add(hashes, lengths, data)
    store.refusal = Unreachable("The store is away.", remedy="None: this is a test.")
    for _ in range(20):
        with pytest.raises(Unreachable):
            writer.add(sent[3][0], lengths, sent[3][1])
        with pytest.raises(Unreachable):
            writer.flush()
    store.refusal = None
    writer.add(sent[3][0], lengths, sent[3][1])
    writer.flush()
    sizes = [item.size for item in store.list(vault_names.CHUNKS)]
    assert max(sizes) < PACK_TARGET + 2 * CHUNK
    assert sum(sizes) < (len(sent) * CALL + 1) * CHUNK, "no chunk is there twice"
    assert chunks.known(np.concatenate([hashes for hashes, _ in sent])).all()
