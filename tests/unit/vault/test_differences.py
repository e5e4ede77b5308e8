"""Chunks compared with what a disk held: equal at every position, but for those that an object's damage touches."""

from __future__ import annotations

import numpy as np
import pytest
from tests.unit.vault.synthetic import Machine, memory_vault

from farshore.formats.record import RecordKind
from farshore.model.errors import Damaged
from farshore.model.identifiers import CHUNK, DiskNumber, Epoch, Sequence
from farshore.model.policy import ReplicationPolicy
from farshore.model.position import Position
from farshore.vault import Vault
from farshore.vault.objects import damage
from farshore.vault.objects.differences import Differing, affecting
from farshore.vault.reading.parent_disk import chunk_hash
from farshore.vault.upkeep.collection import collect
from farshore.vault.upkeep.compaction import Tiers, compact
from farshore.vault.upkeep.retention import apply_retention
from farshore.vault.upkeep.scrub import DAY, scrub
from farshore.vault.upkeep.turns import one_policy

SIZE = (3 << 20) + 5000
CHUNKS = np.arange(-(-SIZE // CHUNK))
ONE = DiskNumber(0)


@pytest.fixture
def machine() -> Machine:
    made = Machine(memory_vault(), 71, {0: SIZE})
    made.fill()
    made.step = 10 * 60 * 10**9
    made.begin_epoch(None)
    made.journal(segments=24, batches=1, count=8)
    return made


def differing(machine: Machine, position: Position, disk: bytes | None = None) -> list[int]:
    data = machine.states[position][0] if disk is None else disk
    hashes = [chunk_hash(machine.vault.chunk_hash_key, data[chunk * CHUNK :][:CHUNK]) for chunk in CHUNKS.tolist()]
    told = np.frombuffer(b"".join(hashes), np.uint8).reshape(-1, 32)
    return CHUNKS[~machine.in_vault.proofs.equal_chunks(position, ONE, CHUNKS, told)].tolist()


def last(machine: Machine) -> Position:
    return max(machine.states)


def alter(machine: Machine, part: str, place: int | None = None) -> str:
    names = [item.name for item in machine.vault.store.list("") if part in item.name]
    for name in names:
        data = bytearray(machine.vault.store.get(name))
        for at in range(100, len(data) * 3 // 4, 4096) if place is None else (place,):
            data[at] ^= 1
        machine.vault.store.put(name, [data])
    machine.vault = Vault.open_with_vault_key(machine.vault.store, bytes.fromhex(machine.vault.key_hex))
    machine.in_vault = machine.vault.machine(machine.id)
    return names[0]


def test_every_state_is_equal_to_itself_and_to_no_other_disk(machine: Machine) -> None:
    for position in machine.states:
        assert differing(machine, position) == []
    wrong = bytearray(machine.states[last(machine)][0])
    for at in (0, 7 * CHUNK + 4095, SIZE - 1):
        wrong[at] ^= 1
    assert differing(machine, last(machine), bytes(wrong)) == [0, 7, SIZE // CHUNK]


def test_a_flipped_bit_in_a_segment_is_found(machine: Machine) -> None:
    alter(machine, "/segments/")
    found = differing(machine, last(machine))
    assert found
    assert machine.in_vault.proofs.stored_chunk(last(machine), ONE, found[0]) is None


@pytest.mark.parametrize(("part", "place"), [("/data/", None), ("/layers/", -300)])
def test_a_flipped_bit_in_what_was_merged_is_found(machine: Machine, part: str, place: int | None) -> None:
    compact(machine.in_vault, Tiers(segments=4, fan=2))
    apply_retention(machine.in_vault, ReplicationPolicy(hot_window=3600, keep_hourly=1, keep_daily=0))
    kept = [point.position for point in machine.in_vault.points.listed()]
    assert [differing(machine, position) for position in kept] == [[]] * len(kept)
    alter(machine, part, place)
    try:
        assert any(differing(machine, position) for position in kept)
    except Damaged:
        assert part == "/layers/", "an index is lost, so nothing of the state can be read"


def test_a_flipped_bit_in_a_chunk_is_found_once_the_scrub_has() -> None:
    """Its hash in the base map is what the disk has; that the object holds it is what the scrub finds out."""
    machine = Machine(memory_vault(), 71, {0: SIZE})
    machine.fill()
    machine.begin_epoch(None)
    machine.write(RecordKind.WRITE, 0, 40 * CHUNK, 4096)
    alter(machine, "chunks/")
    before = differing(machine, last(machine))
    for moment in range(1, 3 * DAY, DAY):
        scrub(machine.vault, DAY, lambda moment=moment: moment, lambda _size: True)  # type: ignore[misc]
    assert damage.listed(machine.vault.store, machine.vault.upkeep_key)
    assert set(differing(machine, last(machine))) > set(before)


def test_both_versions_are_kept_and_the_points_between_are_named(machine: Machine) -> None:
    at = last(machine)
    proven = sorted(machine.states)[3]
    found = Differing(ONE, 5, at, proven, 99, "a heal", b"on the disk", None)
    machine.in_vault.proofs.put_difference(found)
    machine.in_vault.proofs.put_difference(found)
    assert machine.in_vault.proofs.differences() == [found]
    positions = sorted(machine.states)
    assert affecting([found], positions) == [False] * 4 + [True] * (len(positions) - 4)
    assert not found.affects(Position(Epoch(at.epoch), Sequence(at.sequence + 1)))
    assert Differing(ONE, 5, at, None, 99, "", b"", b"").affects(positions[0])
    collect(machine.vault, one_policy(ReplicationPolicy()), grace=0)
    assert machine.in_vault.proofs.differences() == [found]
