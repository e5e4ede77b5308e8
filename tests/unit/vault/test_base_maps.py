"""A base map in the making takes memory for what was set, whatever the disk's size, and says what was set last."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from tests.unit.vault.synthetic import MACHINE, memory_vault

from farshore.formats.base_map import INHERIT, ZERO
from farshore.formats.chunk_exchange import CHUNK_ROW, Chunks
from farshore.formats.chunk_pack import LOCATOR
from farshore.model.errors import Malformed
from farshore.model.identifiers import CHUNK, DiskNumber, Epoch
from farshore.vault.objects.base_maps import BaseMap, BaseMapWriter
from farshore.vault.objects.opening import Kind, open_object
from farshore.vault.vault import Vault

DISK = DiskNumber(0)


def writer(size: int, rest: int = ZERO) -> tuple[Vault, BaseMapWriter]:
    vault = memory_vault()
    return vault, BaseMapWriter(vault.machine(MACHINE, create=True).key, MACHINE, Epoch(1), DISK, size, rest)


def stored(made: BaseMapWriter, chunks: np.ndarray, mark: int) -> None:
    locators = np.zeros(len(chunks), LOCATOR)
    locators["ordinal"], locators["offset"] = mark, np.arange(len(chunks))
    hashes = np.full((len(chunks), 32), mark, np.uint8)
    hashes[:, 0] = chunks % 251
    made.set_stored(chunks, hashes, locators)


def test_zeroes_and_far_places_of_a_huge_disk_cost_little() -> None:
    _, made = writer(32 << 40)
    tracemalloc.start()
    try:
        for first in range(0, 1 << 26, 1 << 22):
            made.set_zero(np.arange(first, first + (1 << 16)))
        assert not made._slices
        for chunk in range(0, 1 << 28, 1 << 20):
            stored(made, np.array([chunk]), 1)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(made._slices) == 256
    assert peak < 4 << 20


@pytest.mark.parametrize("rest", [ZERO, INHERIT])
def test_what_was_set_last_counts_in_any_order(rest: int) -> None:
    size = 5000 * CHUNK - 512
    vault, made = writer(size, rest)
    random = np.random.default_rng(3)
    ordinals, known = np.zeros(5000, np.int64), np.full(5000, rest == ZERO)
    for mark in range(1, 20):
        chunks = random.permutation(5000)[:700]
        stored(made, chunks, mark)
        ordinals[chunks], known[chunks] = mark, True
        first = int(random.integers(0, 4000))
        made.set_zero(np.arange(first, first + 300))
        ordinals[first : first + 300], known[first : first + 300] = 0, True
    found = made.finish()
    vault.store.put(found.name, found.buffers)
    listed = next(item for item in vault.store.list("") if item.name == found.name)
    read = BaseMap(open_object(vault.store, vault.machine(MACHINE).key, listed.name, listed.size, Kind.BASE_MAP))
    entries = np.concatenate([read.entries(page) for page in range(3)])
    hashes = np.concatenate([read.hashes(page) for page in range(3)])
    assert len(entries) == 5000
    assert (entries["ordinal"] == ordinals).all()
    assert ((entries["pack"] == INHERIT) == ~known).all()
    assert ((entries["pack"] == ZERO) == (known & (ordinals == 0))).all()
    assert (hashes[:, 1] == ordinals).all()


@pytest.mark.parametrize(
    ("chunk", "length"), [(0, 0), (0, 100), (0, CHUNK - 1), (9, CHUNK), (9, 100), (10, CHUNK), (1 << 46, CHUNK)]
)
def test_a_chunk_of_another_length_or_beyond_the_disk_is_refused_before_it_is_stored(chunk: int, length: int) -> None:
    vault = memory_vault()
    copy = vault.machine(MACHINE, create=True).bases.begin_copy(Epoch(1), [(DISK, 9 * CHUNK + 512)], None)
    before = {item.name for item in vault.store.list("chunks/")}
    rows = np.zeros(1, CHUNK_ROW)
    data = bytes([1]) * length
    rows["chunk"], rows["length"], rows["hash"] = chunk, length, np.void(copy.chunk_hash(data))
    with pytest.raises(Malformed):
        copy.put(Chunks(DISK, rows, data))
    copy.close()
    assert {item.name for item in vault.store.list("chunks/")} == before
