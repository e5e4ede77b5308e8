"""Compacted states equal the model at every position, and need few objects."""

from __future__ import annotations

import threading

import pytest
from tests.unit.vault.synthetic import STEP, Machine, new_vault

from farshore.formats.batch import Role
from farshore.formats.vault_names import SegmentName
from farshore.model.errors import Damaged
from farshore.model.identifiers import DiskNumber, Epoch, Sequence
from farshore.model.position import Position
from farshore.vault import AtTime
from farshore.vault.reading.timeline import StoredLayer
from farshore.vault.upkeep.compaction import Tiers, compact, stored_layers

SMALL = Tiers(segments=4, fan=3)


@pytest.fixture
def machine(tmp_path):
    made = Machine(new_vault(tmp_path)[0], 21, {0: 3 << 20, 1: (1 << 20) + 512})
    made.fill()
    made.begin_epoch(None)
    return made


def test_every_state_stays_and_the_last_needs_few_objects(machine):
    machine.journal(segments=40, batches=1, count=20)
    made = compact(machine.in_vault, SMALL)
    assert sorted({name.tier for name in made}) == [0, 1, 2]
    timeline = machine.in_vault.stored.timeline()
    pieces = timeline.cover(Epoch(1), Sequence(800))
    assert len(pieces) <= 3 + 3 + 4
    assert isinstance(pieces[0].stored, StoredLayer)
    assert pieces[0].stored.layer.tier == 2
    for position in machine.states:
        machine.check(position)
    assert compact(machine.in_vault, SMALL) == []


def test_points_and_times_are_the_same_after_compaction(machine):
    machine.journal(segments=20, batches=2, count=20)
    before = machine.in_vault.points.listed()
    times = [machine.time - number * STEP // 3 - 7 for number in range(60)]
    found = [machine.in_vault.points.resolve(AtTime(time)) for time in times]
    compact(machine.in_vault, SMALL)
    assert machine.in_vault.points.listed() == before
    assert [machine.in_vault.points.resolve(AtTime(time)) for time in times] == found


def test_compaction_goes_on_where_it_stopped(machine):
    for _ in range(5):
        machine.journal(segments=7, batches=1, count=15)
        compact(machine.in_vault, SMALL)
    for position in machine.states:
        machine.check(position)


def test_layers_of_limited_size_still_cover(machine):
    machine.journal(segments=40, batches=1, count=20)
    compact(machine.in_vault, Tiers(segments=4, fan=3, entries=150))
    for position in list(machine.states)[::3]:
        machine.check(position)


def test_two_compactors_at_once_disturb_nobody(machine):
    machine.journal(segments=30, batches=1, count=20)
    threads = [threading.Thread(target=compact, args=(machine.in_vault, SMALL)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for position in list(machine.states)[::4]:
        machine.check(position)


def test_epochs_are_compacted_each_by_itself(machine):
    machine.journal(segments=10, batches=1, count=20)
    parent = Position(Epoch(1), Sequence(160))
    machine.go_back(parent)
    machine.begin_epoch(parent, "heal", overlay=20)
    machine.journal(segments=10, batches=1, count=20)
    compact(machine.in_vault, SMALL)
    for position in machine.states:
        machine.check(position)


def test_a_lost_layer_costs_nothing_while_its_segments_are_there(machine, tmp_path):
    machine.journal(segments=20, batches=1, count=20)
    compact(machine.in_vault, SMALL)
    for path in (tmp_path / "vault" / "machines" / machine.id / "layers").iterdir():
        if "-01-" in path.name or "-02-" in path.name:
            path.unlink()
    for position in list(machine.states)[::5]:
        machine.check(position)


def test_a_lost_segment_behind_a_layer_is_damage_where_it_is_needed(machine, tmp_path):
    machine.journal(segments=8, batches=1, count=20)
    compact(machine.in_vault, SMALL)
    timeline = machine.in_vault.stored.timeline()
    victim = timeline.run(Epoch(1), Role.JOURNAL).chain[2]
    assert SegmentName.parse(victim.object.name) == victim.segment
    (tmp_path / "vault" / victim.object.name).unlink()
    with pytest.raises(Damaged, match=r"is missing|cannot be"):
        machine.check(Position(Epoch(1), Sequence(160)))
    machine.check(Position(Epoch(1), Sequence(40)))


def levels(machine: Machine, position: Position) -> int:
    source = machine.in_vault.disks.open(position, DiskNumber(0))
    source.close()
    return len(source._levels)


def test_a_state_has_as_many_levels_as_docs_limits_tell(machine):
    """Each epoch below it adds its own, and each full top layer one: see docs/limits.md, Vault."""
    machine.journal(segments=9, batches=1, count=20)
    parent = max(machine.states)
    counts = [levels(machine, parent)]
    for heal in range(6):
        machine.begin_epoch(parent, "heal" if heal % 2 else "resync", overlay=5)
        machine.journal(segments=2, batches=1, count=20)
        parent = max(machine.states)
        counts.append(levels(machine, parent))
    # Each epoch's overlay and journal are one here, where no layer lies between; its map is another.
    assert counts == [2, 4, 6, 8, 10, 12, 14]
    machine.check(parent)


def test_top_layers_grow_with_the_journal(machine):
    """A cover is at most a fan of each lower tier and a group of segments, and a full top layer for each so many."""
    full = Tiers(segments=2, fan=2, entries=200)
    found = []
    for _ in range(4):
        machine.journal(segments=16, batches=1, count=20)
        compact(machine.in_vault, full)
        pieces = machine.in_vault.stored.timeline().cover(Epoch(1), machine.in_vault.points.latest().position.sequence)
        found.append(len(pieces))
    assert found[3] >= 3 * found[0]
    for stored in stored_layers(machine.in_vault.stored.timeline()):
        assert machine.in_vault.stored.layer(stored).entries <= full.entries
