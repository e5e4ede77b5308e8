"""What changed between two positions turns the disks of the one into those of the other, byte for byte."""

from __future__ import annotations

import numpy as np
import pytest
from tests.unit.vault.synthetic import Machine, memory_vault

from farshore.formats.record import RecordKind
from farshore.model.identifiers import BLOCK, CHUNK, DiskNumber, Epoch, Sequence
from farshore.model.policy import ReplicationPolicy
from farshore.model.position import Position
from farshore.vault.reading.changes import Changes, apply, changes, journal_of
from farshore.vault.upkeep.collection import collect
from farshore.vault.upkeep.compaction import Tiers, compact
from farshore.vault.upkeep.retention import apply_retention

SIZES = {0: 3 << 20, 1: (1 << 20) + 3 * 512}
"""The second ends within a block."""


class Disk:
    """A farshore.vault.reading.changes.Target."""

    def __init__(self, data: bytes) -> None:
        self.data = bytearray(data)

    def write(self, offset: int, *pieces: object) -> int:
        joined = b"".join(bytes(piece) for piece in pieces)
        assert offset + len(joined) <= len(self.data)
        self.data[offset : offset + len(joined)] = joined
        return len(joined)

    def zero(self, start: int, end: int) -> int:
        assert end <= len(self.data)
        self.data[start:end] = bytes(max(0, end - start))
        return 0


@pytest.fixture
def machine() -> Machine:
    made = Machine(memory_vault(), 17, SIZES)
    made.fill()
    made.begin_epoch(None)
    made.journal(segments=3, batches=2, count=30)
    return made


def bring(machine: Machine, since: Position, until: Position) -> dict[int, bytes] | None:
    """The disks as they are after what changed was written to those of ``since``."""
    found = changes(machine.in_vault, machine.in_vault.stored.timeline(), since, until)
    if found is None:
        return None
    made = {}
    for number, data in machine.states[since].items():
        disk = Disk(data)
        one = found.get(DiskNumber(number), Changes())
        if len(one.chunks):
            view, _ = machine.in_vault.disks.comparable(until, DiskNumber(number))
            for chunk in one.chunks.tolist():
                base = view.below(int(view.bases(chunk, 1).epochs[0]))
                piece = bytearray(min(CHUNK, len(data) - chunk * CHUNK))
                base.read_into(chunk * CHUNK, memoryview(piece))
                disk.write(chunk * CHUNK, piece)
            view.close()
        apply(one.writes, len(data), disk)
        made[number] = bytes(disk.data)
    return made


def test_within_an_epoch_from_every_position_to_every_later_one(machine: Machine) -> None:
    positions = sorted(machine.states)
    for since in positions:
        for until in positions[positions.index(since) :]:
            assert bring(machine, since, until) == machine.states[until], (since, until)


def test_over_epochs_that_grow_out_of_each_other(machine: Machine) -> None:
    since = sorted(machine.states)[2]
    for turn in range(3):
        parent = max(machine.states)
        for number, data in machine.disks.items():
            data[70_000 * turn : 70_000 * turn + 140_000] = machine.random.randbytes(140_000)
            assert number in SIZES
        machine.begin_epoch(parent, "resync", overlay=20)
        machine.journal(segments=2, batches=1, count=30)
    for until in sorted(machine.states):
        if until > since:
            assert bring(machine, since, until) == machine.states[until], until


def test_over_layers_of_compaction(machine: Machine) -> None:
    machine.journal(segments=12, batches=1, count=20)
    compact(machine.in_vault, Tiers(segments=3, fan=2))
    positions = sorted(machine.states)
    for since in positions[::3]:
        assert bring(machine, since, positions[-1]) == machine.states[positions[-1]]


def test_repeated_after_a_half_of_it_and_towards_a_later_state(machine: Machine) -> None:
    """A crash leaves any part of the writes; the next time begins at the same position and goes further."""
    since, until, later = (sorted(machine.states)[place] for place in (1, 3, 5))
    found = changes(machine.in_vault, machine.in_vault.stored.timeline(), since, until)
    assert found is not None
    for number, data in machine.states[since].items():
        half = Disk(data)
        torn = machine.states[until][number]
        for block in range(0, len(data), 3 * BLOCK):
            half.data[block : block + BLOCK] = torn[block : block + BLOCK]
        again = changes(machine.in_vault, machine.in_vault.stored.timeline(), since, later)
        assert again is not None
        apply(again[DiskNumber(number)].writes, len(data), half)
        assert bytes(half.data) == machine.states[later][number]


def test_only_what_changed_is_written_and_hidden_writes_are_not_read(machine: Machine) -> None:
    since = max(machine.states)
    for _ in range(10):
        machine.write(RecordKind.WRITE, 0, 40 * BLOCK, 2 * BLOCK)
    machine.write(RecordKind.WRITE, 0, 44 * BLOCK + 512, 1024)
    until = max(machine.states)
    found = changes(machine.in_vault, machine.in_vault.stored.timeline(), since, until)
    assert found is not None
    assert list(found) == [0]
    disk = Disk(machine.states[since][0])
    assert apply(found[DiskNumber(0)].writes, SIZES[0], disk) == 2 * BLOCK + 1024
    assert bytes(disk.data) == machine.states[until][0]


def test_what_does_not_grow_out_of_a_position_has_to_be_compared(machine: Machine) -> None:
    early, late = sorted(machine.states)[1], max(machine.states)
    timeline = machine.in_vault.stored.timeline()
    assert changes(machine.in_vault, timeline, late, early) is None
    machine.go_back(early)
    machine.begin_epoch(early, "failback")
    timeline = machine.in_vault.stored.timeline()
    assert changes(machine.in_vault, timeline, late, Position(Epoch(2), Sequence(0))) is None
    assert bring(machine, early, Position(Epoch(2), Sequence(0))) == machine.states[Position(Epoch(2), Sequence(0))]
    machine.begin_epoch(None, "resync")
    timeline = machine.in_vault.stored.timeline()
    assert changes(machine.in_vault, timeline, early, Position(Epoch(3), Sequence(0))) is None


def test_what_retention_merged_across_has_to_be_compared() -> None:
    minute = 60 * 1_000_000_000
    machine = Machine(memory_vault(), 51, {0: 512 << 10})
    machine.step = 12 * minute
    machine.fill()
    machine.begin_epoch(None)
    machine.journal(segments=24, batches=1, count=6)
    since, until = sorted(machine.states)[2], max(machine.states)
    assert changes(machine.in_vault, machine.in_vault.stored.timeline(), since, until) is not None
    policy = ReplicationPolicy(hot_window=3600, keep_hourly=1, keep_daily=1)
    apply_retention(machine.in_vault, policy)
    for _ in range(2):
        collect(machine.vault, lambda _machine: policy, grace=0)
    assert changes(machine.in_vault, machine.in_vault.stored.timeline(), since, until) is None


def test_bases_and_what_lies_over_them_make_the_whole_disk(machine: Machine) -> None:
    parent = max(machine.states)
    machine.disks[0][300_000:900_000] = machine.random.randbytes(600_000)
    machine.begin_epoch(parent, "resync", overlay=20)
    machine.journal(segments=2, batches=1, count=30)
    for position in sorted(machine.states)[::2]:
        for number, expected in machine.states[position].items():
            view, _key = machine.in_vault.disks.comparable(position, DiskNumber(number))
            count = -(-len(expected) // CHUNK)
            found = view.bases(0, count)
            disk = Disk(bytes(len(expected)))
            for chunk in range(count):
                piece = bytearray(min(CHUNK, len(expected) - chunk * CHUNK))
                view.below(int(found.epochs[chunk])).read_into(chunk * CHUNK, memoryview(piece))
                disk.write(chunk * CHUNK, b"\xee" * len(piece) if found.hidden[chunk] else piece)
            touched = np.flatnonzero(found.touched)
            apply(journal_of(view, touched, found.epochs[touched]), len(expected), disk)
            view.close()
            assert bytes(disk.data) == expected, (position, number)


def test_it_is_seen_whether_anything_follows(machine: Machine) -> None:
    here = max(machine.states)
    assert not machine.in_vault.stored.anything_after(here)
    assert machine.in_vault.stored.anything_after(sorted(machine.states)[-2])
    machine.journal(segments=1, batches=1, count=1)
    assert machine.in_vault.stored.anything_after(here)
    here = max(machine.states)
    machine.begin_epoch(here, "resync")
    machine.journal(segments=1, batches=1, count=1)
    assert machine.in_vault.stored.anything_after(here)
