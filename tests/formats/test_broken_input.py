"""Whatever bytes a vault holds, its decoders answer with an error of ours that says what to do.

Indexes and documents are authenticated before they are decoded, trailers and descriptors are not.
"""

from __future__ import annotations

import contextlib
import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.formats.make_golden import MACHINE
from tests.formats.test_golden import opened

from farshore.formats import base_map, chunk_pack, layer, segment
from farshore.formats.container import Kind, Trailer
from farshore.model.errors import Damaged, Malformed, Unsupported, WrongKey
from farshore.vault import EpochRecord, OwnerKey, Vault, open_store
from farshore.vault.objects import machine_descriptions
from farshore.vault.objects.opening import open_object, read_document
from farshore.vault.reading import points
from farshore.vault.vault import read_descriptor

OURS = (Damaged, Malformed, Unsupported, WrongKey)
JUNK: list[Any] = [
    None,
    True,
    -1,
    1 << 70,
    1.5,
    float("inf"),
    float("nan"),
    "",
    "\ud800",
    "text",
    [],
    [None],
    {},
    {"a": 1},
]


@contextlib.contextmanager
def only_ours() -> Iterator[None]:
    try:
        yield
    except OURS as error:
        assert error.remedy  # noqa: PT017


def altered(data: bytes, rounds: int, seed: int) -> Iterator[bytes]:
    """Copies with bytes changed, most of them near the beginning, where lengths are; a third of them cut short."""
    random = np.random.default_rng(seed)
    for _ in range(rounds):
        broken = bytearray(data)
        reach = len(data) if random.random() < 0.3 else min(len(data), 128)
        for place in random.integers(0, reach, int(random.integers(1, 4))):
            broken[place] = random.choice([0, 1, 127, 255, int(random.integers(0, 256))])
        yield bytes(broken[: int(random.integers(0, len(data)))] if random.random() < 0.3 else broken)


def with_junk(document: Any) -> Iterator[Any]:
    """The document with each of its parts in turn left out, or something else."""

    def places(part: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
        pairs = part.items() if isinstance(part, dict) else enumerate(part) if isinstance(part, list) else ()
        for key, value in pairs:
            yield (*path, key)
            yield from places(value, (*path, key))

    for *above, last in places(document):
        for junk in (..., *JUNK):
            broken = copy.deepcopy(document)
            holder = broken
            for key in above:
                holder = holder[key]
            if junk is ...:
                del holder[last]
            else:
                holder[last] = copy.deepcopy(junk)
            yield broken


@pytest.fixture
def vault(tmp_path: Path) -> Vault:
    return opened("vault-2", tmp_path)


def names(vault: Vault, part: str) -> list[tuple[str, int]]:
    found = [(item.name, item.size) for item in vault.store.list("") if part in f"/{item.name}"]
    assert found
    return found


@pytest.mark.parametrize(
    ("part", "kind", "decode"),
    [
        ("/segments/", Kind.SEGMENT, segment.decode_index),
        ("/layers/", Kind.LAYER, layer.decode_index),
        ("/bases/", Kind.BASE_MAP, base_map.decode_index),
        ("/chunks/", Kind.CHUNK_PACK, chunk_pack.decode_index),
    ],
)
def test_indexes(vault: Vault, part: str, kind: Kind, decode: Callable[[bytes, str], object]) -> None:
    key = vault.chunk_key if kind is Kind.CHUNK_PACK else vault.machine(MACHINE).key
    name, size = names(vault, part)[0]
    index = open_object(vault.store, key, name, size, kind).index
    decode(index, name)
    refused = 0
    for broken in altered(index, 500, kind):
        with only_ours():
            refused += 1
            decode(broken, name)
            refused -= 1
    assert refused


def test_trailers_and_whole_objects(vault: Vault) -> None:
    key = vault.machine(MACHINE).key
    for name, size in names(vault, "/layers/")[:1] + names(vault, "/epochs/")[:1]:
        data = bytes(vault.store.get(name))
        for number, tail in enumerate(altered(data[-128:], 400, size)):
            with only_ours():
                Trailer.decode(tail, len(data), name)
            if number % 4 == 0:
                # Nothing altered is taken for whole, but for bytes of the trailer that say nothing.
                vault.store.put(name, [data[:-128], tail])
                with only_ours():
                    open_object(vault.store, key, name, size - 128 + len(tail), Kind.LAYER)
                with only_ours():
                    read_document(vault.store, key, name)


@pytest.mark.parametrize(
    ("part", "decode"),
    [
        ("/epochs/", EpochRecord.from_fields),
        ("/points/", points.from_fields),
        ("/descriptions/", machine_descriptions.from_fields),
    ],
)
def test_documents(vault: Vault, part: str, decode: Callable[[dict[str, Any], str], object]) -> None:
    name, _ = names(vault, part)[-1]
    fields = read_document(vault.store, vault.machine(MACHINE).key, name)
    decode(fields, name)
    refused = 0
    for broken in with_junk(fields):
        with only_ours():
            refused += 1
            decode(broken, name)
            refused -= 1
    assert refused


@pytest.mark.parametrize("kind", ["key-file", "passphrase"])
def test_descriptors(kind: str) -> None:
    """Nobody vouches for the descriptor: anyone who can write to the store writes it."""
    store = open_store("memory:///")
    owner = OwnerKey(bytes(32), kind)
    Vault.create(store, owner)
    made = read_descriptor(store)
    for slot in made["slots"]:
        if kind == "passphrase":
            slot["argon2id"] = {"iterations": 1, "memory_kib": 64, "lanes": 1}
    refused = 0
    for broken in with_junk(made):
        slots = broken.get("slots")
        costs = [slot.get("argon2id") for slot in slots if isinstance(slot, dict)] if isinstance(slots, list) else []
        if any(isinstance(cost, dict) and (1 << 70) in cost.values() for cost in costs):
            continue  # it is held to 4 GiB and 64 rounds: refused rightly, and only after them
        store.put("vault.farshore", [json.dumps(broken).encode()])
        with only_ours():
            refused += 1
            Vault.open(store, owner)
            refused -= 1
    text = json.dumps(made).encode()
    for broken_text in altered(text, 300, 1):
        if b"argon2id" in text and b'"memory_kib": 64,' not in broken_text:
            continue
        store.put("vault.farshore", [broken_text])
        with only_ours():
            Vault.open(store, owner)
    assert refused
