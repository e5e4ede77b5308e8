"""Sets of packs and of chunks in little memory answer what Python's own would."""

from __future__ import annotations

import random

import numpy as np
from tests.unit.vault.synthetic import Machine, memory_vault

from farshore.formats import vault_names
from farshore.formats.base_map import INHERIT
from farshore.model.policy import ReplicationPolicy
from farshore.vault.objects.base_maps import BaseMap
from farshore.vault.objects.named_chunks import NamedChunks, PackNumbers
from farshore.vault.upkeep.collection import collect
from farshore.vault.upkeep.salts import SaltCollector, SaltSet, as_salts


def test_a_set_of_salts_is_a_set() -> None:
    source = random.Random(1)
    # Many share their first half, as no random ones do.
    salts = [bytes([source.randrange(3)]) * 8 + bytes([source.randrange(9)]) * 8 for _ in range(60)]
    wanted, asked = set(salts[:30]), [*salts, b"\xff" * 16, bytes(16)]
    found = SaltSet.of(salts[:30])
    assert [one.tobytes() for one in found.salts()] == sorted(wanted)
    assert found.contains(as_salts(b"".join(asked))).tolist() == [one in wanted for one in asked]
    assert all((one in found) == (one in wanted) for one in asked)
    places = found.places(as_salts(b"".join(asked)))
    assert all(place < 0 or sorted(wanted)[place] == one for place, one in zip(places.tolist(), asked, strict=True))
    assert {one.tobytes() for one in (found | SaltSet.of(salts[20:])).salts()} == set(salts)
    assert not SaltSet().contains(as_salts(b"".join(asked))).any()
    collector = SaltCollector()
    for start in range(0, 60, 7):
        collector.add(as_salts(b"".join(salts[start : start + 7])))
    assert {one.tobytes() for one in collector.collected().salts()} == set(salts)


def test_named_chunks_are_those_of_the_maps() -> None:
    machine = Machine(memory_vault(), 3, {0: 1 << 20, 1: 300_000})
    numbers = PackNumbers()
    one, two = NamedChunks(numbers), NamedChunks(numbers)
    wanted: list[dict[tuple[str, int], int]] = []
    for named in (one, two):
        machine.fill()
        machine.begin_epoch(None)
        wanted.append({})
        for number in machine.disks:
            for item in machine.vault.store.list(vault_names.machine_folder(machine.id) + "bases/"):
                if f"/{machine.epoch:08x}-{number:04x}" not in item.name:
                    continue
                unique = item.name.rpartition("-")[2]
                base: BaseMap = machine.in_vault.stored.base_map(machine.epoch, number, unique)  # type: ignore[arg-type]
                named.add(base)
                named.add(base)
                entries = base.entries(0)
                for pack, ordinal, _, stored in entries[entries["pack"] < INHERIT].tolist():
                    wanted[-1][base.pack_names()[pack], ordinal] = stored
    assert one.packs() == {pack for pack, _ in wanted[0]}
    assert one.stored_but(two, set()) == sum(stored for chunk, stored in wanted[0].items() if chunk not in wanted[1])
    gone = {next(iter(wanted[0]))[0]}
    left = sum(stored for chunk, stored in wanted[0].items() if chunk not in wanted[1] and chunk[0] not in gone)
    assert one.stored_but(two, gone) == left
    for pack in one.packs() | two.packs():
        ordinals = np.arange(40, dtype=np.uint32)
        assert one.names(pack, ordinals).tolist() == [(pack, ordinal) in wanted[0] for ordinal in range(40)]


def test_a_collection_leaves_what_is_no_pack_alone() -> None:
    machine = Machine(memory_vault(), 4, {0: 256 << 10})
    machine.fill()
    machine.begin_epoch(None)
    store = machine.vault.store
    for name in ("chunks/zz/notes", "chunks/ab/" + "cd" * 16, "chunks/in-00000007/ab/" + "ab" * 16):
        store.put(name, [b"what is it?"])
    for _ in range(3):
        collect(machine.vault, lambda _: ReplicationPolicy(), grace=-(10**9))
    left = {item.name for item in store.list(vault_names.CHUNKS)}
    assert {"chunks/zz/notes", "chunks/ab/" + "cd" * 16} <= left
    assert "chunks/in-00000007/ab/" + "ab" * 16 not in left, "a pack that no map names goes"
    machine.check(machine.in_vault.points.latest().position)
