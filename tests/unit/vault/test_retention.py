"""Retention and collection: what the policy keeps stays readable, all else goes, and nothing in use is touched."""

from __future__ import annotations

import time

import pytest
from tests.unit.vault.synthetic import Machine, memory_vault, read

from farshore.formats import vault_names
from farshore.formats.batch import Role
from farshore.model.errors import Damaged, NotFound
from farshore.model.identifiers import DiskNumber, Epoch, MachineId, PointId, Sequence
from farshore.model.point import PointKind, RecoveryPoint
from farshore.model.policy import ReplicationPolicy
from farshore.model.position import Position
from farshore.vault import AtTime, EpochRecord, Named
from farshore.vault.objects.segments import SegmentBuilder
from farshore.vault.upkeep.collection import collect
from farshore.vault.upkeep.compaction import Tiers, compact
from farshore.vault.upkeep.retention import apply_retention, plan_retention
from farshore.vault.upkeep.turns import maintain, one_policy

MINUTE = 60 * 1_000_000_000
POLICY = ReplicationPolicy(hot_window=2 * 3600, keep_hourly=4, keep_daily=2, keep_weekly=0)
NARROW = ReplicationPolicy(hot_window=3600, keep_hourly=1, keep_daily=0, keep_weekly=0)
SMALL = Tiers(segments=4, fan=3)


@pytest.fixture
def machine():
    made = Machine(memory_vault(), 31, {0: 2 << 20, 1: 600 << 10})
    made.step = 7 * MINUTE
    made.fill()
    made.begin_epoch(None)
    return made


def run(machine: Machine, policy: ReplicationPolicy = POLICY) -> tuple[int, int]:
    """Compaction, retention and two collections without grace; bytes and objects deleted."""
    compact(machine.in_vault, SMALL)
    apply_retention(machine.in_vault, policy)
    first = collect(machine.vault, lambda _: policy, grace=0)
    second = collect(machine.vault, lambda _: policy, grace=0)
    return first.deleted + second.deleted, first.deleted_objects + second.deleted_objects


def check_what_is_left(machine: Machine) -> set[Position]:
    """Every listed point is right; every other state is refused or right."""
    listed = {point.position for point in machine.in_vault.points.listed()}
    for position in machine.states:
        try:
            machine.check(position)
        except (NotFound, Damaged):
            assert position not in listed
    return listed


def test_the_hot_window_stays_and_older_points_are_thinned(machine):
    machine.journal(segments=180, batches=1, count=8)  # 21 hours
    deleted, objects = run(machine)
    assert deleted > 0
    assert objects > 50
    listed = check_what_is_left(machine)
    newest = machine.in_vault.points.latest().time
    hot = [point for point in machine.in_vault.points.listed() if point.time > newest - POLICY.hot_window * 10**9]
    assert len(hot) >= 2 * 60 // 7
    assert len(hot) + 4 <= len(listed) <= len(hot) + 4 + 2 + 60 // 7 + 1
    assert run(machine) == (0, 0)


def test_retention_goes_on_with_time_and_thins_hours_to_days(machine):
    for _ in range(4):
        machine.journal(segments=110, batches=1, count=6)  # 9.3 hours each
        run(machine)
    listed = check_what_is_left(machine)
    days = {point.time // (86400 * 10**9) for point in machine.in_vault.points.listed()}
    assert len(days) <= 4  # the base, two days, today
    assert len(listed) < 40


def test_space_of_overwritten_blocks_comes_back(machine):
    machine.journal(segments=200, batches=1, count=40)

    def used() -> int:
        return sum(item.size for item in machine.vault.store.list("machines/"))

    before = used()
    run(machine, ReplicationPolicy(hot_window=0, keep_hourly=1, keep_daily=0, keep_weekly=0))
    check_what_is_left(machine)
    # 8,000 writes went to 660 blocks: what one state needs of them is left, and the base.
    assert used() < before * 0.4


def test_named_and_leased_points_stay(machine):
    machine.journal(segments=60, batches=1, count=8)
    named = RecoveryPoint(
        PointId("n"),
        machine.id,
        Position(Epoch(1), Sequence(85)),
        machine.time - 350 * MINUTE,
        PointKind.APP_CONSISTENT,
        "n",
    )
    machine.in_vault.writing.put_point(named)
    used = Position(Epoch(1), Sequence(16))
    source = machine.in_vault.disks.open(used, DiskNumber(0))
    pins = [used]
    apply_retention(machine.in_vault, POLICY, pins)
    for _ in range(3):
        collect(machine.vault, lambda _: POLICY, grace=0)
    assert read(source, 0, source.size) == machine.states[used][0]
    assert machine.in_vault.points.resolve(Named("n")).position == named.position
    source.close()
    run(machine)
    with pytest.raises((NotFound, Damaged)):
        machine.in_vault.disks.open(used, DiskNumber(0))
    again = machine.in_vault.disks.open(named.position, DiskNumber(0))
    again.close()


def test_what_is_condemned_cannot_be_opened_and_has_its_grace(machine):
    machine.journal(segments=60, batches=1, count=8)
    compact(machine.in_vault, SMALL)
    apply_retention(machine.in_vault, POLICY)
    old = Position(Epoch(1), Sequence(16))
    machine.check(old)
    found = collect(machine.vault, lambda _: POLICY, grace=10**15)
    assert found.condemned > 0
    assert found.deleted_objects == 0
    with pytest.raises(NotFound, match="merged position"):
        machine.in_vault.disks.open(old, DiskNumber(0))
    generous = ReplicationPolicy(hot_window=10**6)
    assert collect(machine.vault, lambda _: generous, grace=0).deleted_objects == 0


def test_epochs_that_nothing_needs_go_with_their_chunks(machine):
    machine.journal(segments=5, batches=1, count=8)
    for _ in range(3):
        machine.fill()
        machine.begin_epoch(None, "resync")
        machine.journal(segments=30, batches=1, count=8)
    run(machine, ReplicationPolicy(hot_window=2 * 3600, keep_hourly=4, keep_daily=0, keep_weekly=0))
    listed = check_what_is_left(machine)
    assert {position.epoch for position in listed} == {3, 4}
    assert len(list(machine.vault.store.list(f"machines/{machine.id}/bases/"))) == 4


def test_a_parent_epoch_stays_as_far_as_its_child_needs(machine):
    machine.journal(segments=40, batches=1, count=8)
    parent = Position(Epoch(1), Sequence(200))
    machine.go_back(parent)
    machine.begin_epoch(parent, "resync", overlay=5)
    machine.journal(segments=60, batches=1, count=8)
    run(machine)
    listed = check_what_is_left(machine)
    assert min(position.epoch for position in listed) in (1, 2)
    machine.check(machine.in_vault.points.latest().position)


def test_an_epoch_that_is_being_copied_is_left_alone(machine):
    machine.journal(segments=5, batches=1, count=8)
    copy = machine.in_vault.bases.begin_copy(Epoch(2), [(DiskNumber(0), 2 << 20)], None)
    machine.disks = {0: bytearray(machine.random.randbytes(2 << 20))}
    machine._copy_disk(copy, 0)
    disks = copy.finish()
    for _ in range(3):
        collect(machine.vault, lambda _: POLICY, grace=0)
    assert machine.in_vault.stored.base_map(Epoch(2), DiskNumber(0), disks[0].map).chunks == 32
    machine.epoch, machine.next = 1, machine.next
    assert disks[0].mapped
    names = [item.name for item in machine.vault.store.list(vault_names.CHUNKS)]
    assert names
    copy.close()


def test_what_a_copy_stored_before_it_was_broken_off_is_found_by_the_next(machine):
    machine.journal(segments=5, batches=1, count=8)
    broken = machine.in_vault.bases.begin_copy(Epoch(2), [(DiskNumber(0), 2 << 20)], None)
    machine.disks = {0: bytearray(machine.random.randbytes(2 << 20))}
    machine._copy_disk(broken, 0)
    broken._writer.flush()
    names = {item.name for item in machine.vault.store.list(vault_names.CHUNKS)}
    broken.close()
    collect(machine.vault, lambda _: POLICY)  # as the servers do when they start
    again = machine.in_vault.bases.begin_copy(Epoch(3), [(DiskNumber(0), 2 << 20)], None)
    machine._copy_disk(again, 0)
    again._writer.flush()
    assert {item.name for item in machine.vault.store.list(vault_names.CHUNKS)} == names, "nothing was stored twice"
    again.close()
    for _ in range(2):
        collect(machine.vault, lambda _: POLICY, grace=0)
    left = {item.name for item in machine.vault.store.list(vault_names.CHUNKS)}
    assert left < names, "what no epoch came to name goes in the end"


def test_an_erased_machine_is_collected_whole(machine):
    machine.journal(segments=3, batches=1, count=8)
    other = Machine(machine.vault, 5, {0: 1 << 20}, MachineId(machine.id.replace("7", "4")))
    other.fill()
    other.begin_epoch(None)
    machine.vault.erase_machine(machine.id)
    for _ in range(2):
        collect(machine.vault, lambda _: POLICY, grace=0)
    assert machine.vault.machines() == [other.id]
    other.check(other.in_vault.points.latest().position)


def test_where_points_stop_coming_the_last_ones_stay(machine):
    machine.journal(segments=40, batches=1, count=8)
    timeline = machine.in_vault.stored.timeline()
    plan = plan_retention(timeline, machine.in_vault.points.listed(), POLICY)
    assert plan[Epoch(1)].hot_from is not None
    assert plan[Epoch(1)].keeps(machine.in_vault.points.latest().position.sequence)


def test_points_that_stopped_coming_years_ago_are_all_still_there(machine):
    machine.journal(segments=40, batches=1, count=8)
    run(machine)
    before = machine.in_vault.points.listed()
    for years in (1, 2, 30):
        later = time.time_ns() + years * 365 * 86400 * 10**9
        compact(machine.in_vault, SMALL)
        apply_retention(machine.in_vault, POLICY)
        assert collect(machine.vault, lambda _: POLICY, grace=0, now=later).deleted == 0
    assert machine.in_vault.points.listed() == before
    check_what_is_left(machine)


def test_a_new_epoch_without_points_stays_whole(machine):
    machine.journal(segments=40, batches=1, count=8)
    parent = Position(Epoch(1), Sequence(320))
    machine.fill()
    machine.begin_epoch(None, "resync")
    later = EpochRecord(Epoch(3), "heal", Position(Epoch(2), Sequence(0)), Sequence(12), machine.time, Sequence(1), ())
    machine.in_vault.writing.put_epoch(later)
    builder = SegmentBuilder(machine.in_vault.key, machine.in_vault.id, Epoch(3), Role.JOURNAL)
    machine.epoch, machine.next = 3, {Role.JOURNAL: 1, Role.BASE: 1}
    builder.add(builder.seal(machine.batch(8)))
    machine.in_vault.writing.put_segment(builder.build())
    for _ in range(3):
        run(machine)
    timeline = machine.in_vault.stored.timeline()
    assert Epoch(3) in timeline.epochs
    assert timeline.last(Epoch(3)) == 8
    machine.check(Position(Epoch(2), Sequence(0)))
    machine.check(parent)


def test_a_clock_that_went_back_costs_nothing_that_is_being_written(machine):
    machine.journal(segments=30, batches=1, count=8)
    machine.time -= 1000 * MINUTE
    machine.begin_epoch(Position(Epoch(1), Sequence(240)), "heal")
    machine.journal(segments=10, batches=1, count=8)
    for _ in range(3):
        run(machine)
        machine.check(machine.in_vault.points.latest().position)
    assert machine.in_vault.points.latest().position == Position(Epoch(2), Sequence(80))


def test_of_two_copies_of_an_epoch_the_one_that_its_document_names_counts(machine):
    """A process server that was taken for dead finishes late: it replaces nothing."""
    sizes = [(DiskNumber(number), len(data)) for number, data in machine.disks.items()]
    late = machine.in_vault.bases.begin_copy(Epoch(2), sizes, None)
    truth = {number: bytes(data) for number, data in machine.disks.items()}
    machine.disks = {number: bytearray(machine.random.randbytes(len(data))) for number, data in truth.items()}
    for number in machine.disks:
        machine._copy_disk(late, number)
    machine.disks = {number: bytearray(data) for number, data in truth.items()}
    machine.begin_epoch(None, "resync")
    late.finish()
    late.close()
    machine.check(Position(Epoch(2), Sequence(0)))
    for _ in range(2):
        collect(machine.vault, lambda _: POLICY, grace=0)
    machine.check(Position(Epoch(2), Sequence(0)))
    assert len(list(machine.vault.store.list(f"machines/{machine.id}/bases/00000002".rpartition("/")[0] + "/"))) == 4


YEAR = 365 * 24 * 60 * MINUTE


def jumped(machine: Machine, by: int) -> None:
    """Write once while the machine's clock is wrong."""
    time = machine.time
    machine.time += by
    machine.journal(segments=1, batches=1, count=4)
    machine.time = time


@pytest.mark.parametrize("after", [0, 30])
def test_a_clock_that_jumps_forward_once_ends_no_hot_window(machine, after):
    machine.journal(segments=60, batches=1, count=4)
    before = {point.position for point in machine.in_vault.points.listed()}
    expected = plan_retention(machine.in_vault.stored.timeline(), machine.in_vault.points.listed(), POLICY)[Epoch(1)]
    jumped(machine, 100 * YEAR)
    machine.journal(segments=after, batches=1, count=4)
    plan = plan_retention(machine.in_vault.stored.timeline(), machine.in_vault.points.listed(), POLICY)[Epoch(1)]
    assert plan.hot_from is not None
    assert expected.hot_from is not None
    if after:
        # The window goes on, and does not begin at the wrong point for ever.
        assert expected.hot_from < plan.hot_from < 75 * 4
    else:
        assert (plan.hot_from, plan.kept) == (expected.hot_from, expected.kept)
        run(machine)
        assert {one for one in before if one.sequence >= expected.hot_from} <= check_what_is_left(machine)


def test_the_last_points_stay_when_none_come_any_more_though_a_clock_had_jumped(machine):
    machine.journal(segments=30, batches=1, count=4)
    jumped(machine, 20 * YEAR)
    machine.journal(segments=30, batches=1, count=4)
    listed, timeline = machine.in_vault.points.listed(), machine.in_vault.stored.timeline()
    soon = plan_retention(timeline, listed, POLICY, now=machine.time)
    late = plan_retention(timeline, listed, POLICY, now=machine.time + 10 * YEAR)
    assert soon == late
    assert soon[Epoch(1)].keeps(listed[-1].position.sequence - 4)


def test_a_collector_whose_clock_is_behind_drops_no_more(machine):
    machine.journal(segments=60, batches=1, count=4)
    listed, timeline = machine.in_vault.points.listed(), machine.in_vault.stored.timeline()
    right = plan_retention(timeline, listed, POLICY)[Epoch(1)]
    for now in (0, machine.time - 3 * 60 * MINUTE):
        behind = plan_retention(timeline, listed, POLICY, now=now)[Epoch(1)]
        assert behind.hot_from is not None
        assert right.hot_from is not None
        assert behind.hot_from <= right.hot_from


@pytest.mark.parametrize("part", ["/epochs/", "/layers/"])
def test_a_damaged_object_of_one_machine_stops_the_collection_of_no_other(machine, part):
    machine.journal(segments=60, batches=1, count=8)
    other = Machine(machine.vault, 32, {0: 1 << 20}, MachineId(machine.id.replace("7", "3")))
    other.fill()
    other.begin_epoch(None)
    other.journal(segments=20, batches=1, count=4)
    compact(other.in_vault, SMALL)
    store = machine.vault.store
    name = next(item.name for item in store.list(vault_names.machine_folder(other.id)) if part in item.name)
    whole = bytes(store.get(name))
    store.put(name, [whole[:-60] + bytes([whole[-60] ^ 1]) + whole[-59:]])
    machine.fill()  # the chunks of the first epoch are to die with it
    machine.begin_epoch(None, "resync")
    machine.journal(segments=60, batches=1, count=8)
    untouched = set(store.list(vault_names.machine_folder(other.id)))
    chunks = len(list(store.list("chunks/")))
    done = maintain(machine.vault, one_policy(NARROW), grace=0)
    done = maintain(machine.vault, one_policy(NARROW), grace=0)
    assert list(done.troubles) == [other.id]
    assert done.collection is not None
    assert done.collection.deleted_objects > 50
    assert not done.collection.chunks_untouched
    assert len(list(store.list("chunks/"))) < chunks
    assert untouched <= set(store.list(vault_names.machine_folder(other.id)))
    machine.check(machine.in_vault.points.latest().position)
    store.put(name, [whole])
    other.check(Position(Epoch(1), Sequence(40)))


def test_no_chunk_is_collected_while_a_base_map_cannot_be_read(machine):
    other = Machine(machine.vault, 32, {0: 1 << 20}, MachineId(machine.id.replace("7", "3")))
    other.fill()
    other.begin_epoch(None)
    machine.fill()
    machine.begin_epoch(None, "resync")
    machine.journal(segments=60, batches=1, count=8)
    store = machine.vault.store
    name = next(item.name for item in store.list(f"machines/{other.id}/bases/"))
    whole = bytes(store.get(name))
    store.put(name, [whole[:-60] + bytes([whole[-60] ^ 1]) + whole[-59:]])
    chunks = list(store.list("chunks/"))
    for _ in range(2):
        done = maintain(machine.vault, one_policy(NARROW), grace=0)
    assert list(done.troubles) == [other.id]
    assert done.collection is not None
    assert done.collection.chunks_untouched
    assert done.collection.deleted_objects > 0
    assert list(store.list("chunks/")) == chunks
    store.put(name, [whole])
    other.check(Position(Epoch(1), Sequence(0)))


@pytest.mark.parametrize("grace", [0, 10**15])
def test_any_time_gives_the_newest_state_by_then_that_opens(grace):
    """While what retention gave up awaits its deletion, and after; kept points lie in the middle of segments too."""
    machine = Machine(memory_vault(), 2, {0: 256 << 10})
    machine.step = 7 * MINUTE
    machine.fill()
    machine.begin_epoch(None)
    for round_ in range(3):
        machine.journal(segments=25, batches=machine.random.randint(1, 3), count=5)
        last = machine.in_vault.points.latest().position.sequence
        inside = Position(Epoch(1), Sequence(last - machine.random.randint(1, 100)))
        at = machine.in_vault.points.resolve(inside).time
        machine.in_vault.writing.put_point(
            RecoveryPoint(PointId(f"n{round_}"), machine.id, inside, at, PointKind.APP_CONSISTENT, f"named-{round_}")
        )
        compact(machine.in_vault, SMALL)
        apply_retention(machine.in_vault, POLICY)
        for _ in range(2):
            collect(machine.vault, lambda _: POLICY, grace=grace)
        listed = machine.in_vault.points.listed()
        first, newest = listed[0].time, max(point.time for point in listed)
        for _ in range(25):
            moment = machine.random.randint(first, newest)
            found = machine.in_vault.points.resolve(AtTime(moment))
            assert found.time <= moment
            assert found.position >= max(point.position for point in listed if point.time <= moment)
            machine.in_vault.disks.open(found.position, DiskNumber(0)).close()
            if found.position in machine.states:
                machine.check(found.position)
