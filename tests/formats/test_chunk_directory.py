"""A chunk directory is read as ever, and its index is written as ever."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from obstore.store import MemoryStore
from tests.formats.chunk_directory import DOMAIN, KEY, golden_contents

from farshore.formats import vault_names
from farshore.formats.chunk_directory import encode_index
from farshore.formats.container import Kind
from farshore.vault.objects.directories import Directory
from farshore.vault.objects.opening import open_object
from farshore.vault.stores.remote import RemoteStore

GOLDEN = Path(__file__).parent / "golden" / "chunk-directory-1.bin"


def test_it_is_read_as_ever():
    name, _, data = GOLDEN.read_bytes().partition(b"\n")
    store = RemoteStore(MemoryStore(), "memory:///")
    store.put(name.decode(), [data])
    (item,) = store.list(vault_names.directories(DOMAIN))
    found = Directory(store, KEY, item.name, item.size)
    wanted = golden_contents()
    for one, same in zip(found.contents(np.ones(2, np.bool_)), wanted, strict=True):
        assert one.salt == same.salt
        assert (one.hashes == same.hashes).all()
        assert (one.rows == same.rows).all()
    opened = open_object(store, KEY, item.name, item.size, Kind.CHUNK_DIRECTORY)
    assert encode_index(found.index) == opened.index
