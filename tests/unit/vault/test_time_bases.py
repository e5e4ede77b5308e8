"""Points are found by their times where a clock was set back in between: within an epoch, and from one to the next."""

from __future__ import annotations

import itertools

import pytest
from tests.unit.vault.synthetic import START, STEP, Machine, new_vault

from farshore.cli import grammar, output, vault_opening
from farshore.formats.batch import Role
from farshore.model.errors import NotFound
from farshore.model.identifiers import Epoch, Sequence
from farshore.model.position import Position
from farshore.vault import AtTime
from farshore.vault.objects.segments import SegmentBuilder
from farshore.vault.upkeep.compaction import Tiers, compact

HOUR = 3600 * 1_000_000_000
SIZES = {0: 1 << 20}


@pytest.fixture
def machine(tmp_path):
    """Epoch 1: five segments, five an hour ahead, five by the first clock again. A segment a step."""
    made = Machine(new_vault(tmp_path)[0], 11, SIZES)
    made.fill()
    made.begin_epoch(None)
    for shift in (0, HOUR, -HOUR):
        made.time += shift
        made.journal(segments=5, batches=1, count=4)
    return made


@pytest.fixture(params=["segments", "layers"])
def vault(request, machine):
    if request.param == "layers":
        assert compact(machine.in_vault, Tiers(segments=4, fan=2))
    return machine.in_vault


def test_every_listed_time_gives_the_listed_point(vault):
    listed = vault.points.listed()
    times = [point.time for point in listed]
    assert sorted(times) != times, "no clock went back"
    for point in listed:
        assert vault.points.resolve(AtTime(point.time)).position == point.position
        assert vault.points.resolve(AtTime(point.time // 1_000_000 * 1_000_000)).position == point.position


@pytest.mark.parametrize(
    ("show", "parse"),
    [(vault_opening.show_time, vault_opening.parse_time), (output.moment, grammar.parse_time), (int, int)],
    ids=["farshore vault", "farshore", "JSON"],
)
def test_every_listed_time_can_be_asked_for_as_it_is_shown(tmp_path, show, parse):
    """Times as machines have them, to the nanosecond, and lists that cut them."""
    machine = Machine(new_vault(tmp_path)[0], 12, SIZES)
    machine.time += 123_456_789
    machine.fill()
    machine.begin_epoch(None)
    machine.journal(segments=8, batches=1, count=4)
    assert compact(machine.in_vault, Tiers(segments=4, fan=2))
    listed = machine.in_vault.points.listed()
    assert len(listed) == 9
    for point in listed:
        assert machine.in_vault.points.resolve(AtTime(parse(show(point.time)))).position == point.position


def test_two_points_of_one_millisecond_are_told_apart_by_their_microseconds(tmp_path):
    machine = Machine(new_vault(tmp_path)[0], 13, SIZES)
    machine.step = 100_001
    machine.fill()
    machine.begin_epoch(None)
    machine.journal(segments=5, batches=1, count=1)
    for point in machine.in_vault.points.listed():
        assert machine.in_vault.points.resolve(AtTime(point.time // 1000 * 1000)).position == point.position


def test_a_time_of_the_newest_time_base_is_looked_for_there(vault):
    listed = vault.points.listed()
    last = listed[-3:]
    for older, younger in itertools.pairwise(last):
        found = vault.points.resolve(AtTime((older.time + younger.time) // 2))
        assert older.position.sequence <= found.position.sequence <= younger.position.sequence


def test_a_time_from_before_the_step_is_found_before_it(vault):
    listed = vault.points.listed()
    assert vault.points.resolve(AtTime(listed[1].time + STEP // 2)).position.sequence <= listed[2].position.sequence


def test_a_time_that_only_a_clock_ahead_showed_is_no_older_state_without_a_word(vault):
    ahead = max(point.time for point in vault.points.listed())
    with pytest.raises(NotFound, match="older than that time"):
        vault.points.resolve(AtTime(ahead - STEP // 2))


def test_a_layer_across_a_step_back_has_the_time_of_its_last_record(machine):
    assert compact(machine.in_vault, Tiers(segments=15, fan=2))
    timeline = machine.in_vault.stored.timeline()
    (layer,) = timeline.layers(Epoch(1))
    last = list(timeline.segments(Epoch(1)))[-1].segment.last_time
    assert layer.layer.last_time == last
    assert timeline.newest(Epoch(1)) == (Sequence(60), last)


def test_a_segment_does_not_hold_two_time_bases(machine):
    builder = SegmentBuilder(machine.in_vault.key, machine.in_vault.id, Epoch(1), Role.JOURNAL)
    builder.add(builder.seal(machine.batch(4)))
    machine.time -= HOUR
    assert not builder.accepts(builder.seal(machine.batch(4)))


def test_a_new_epoch_by_a_clock_that_went_back_is_found(machine):
    parent = Position(Epoch(1), Sequence(60))
    machine.time = START + 2 * STEP
    machine.begin_epoch(parent, "resync", overlay=10)
    machine.journal(segments=5, batches=1, count=4)
    vault = machine.in_vault
    newest = vault.points.listed()[-1]
    assert newest.position.epoch == 2
    assert vault.points.resolve(AtTime(newest.time)).position == newest.position
    assert vault.points.resolve(AtTime(newest.time - STEP // 2)).position.epoch == 2
