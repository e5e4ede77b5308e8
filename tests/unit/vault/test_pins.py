"""Pins: what is pinned stays, whatever policy and collectors do; what is unpinned or deleted follows retention."""

from __future__ import annotations

from typing import Any

import pytest
from tests.unit.vault.synthetic import Machine, memory_vault, read

from farshore.formats import vault_names
from farshore.model.errors import Damaged, NotFound, Refused, Unsupported
from farshore.model.identifiers import DiskNumber, Epoch, MachineId, PointId, Sequence
from farshore.model.point import PointKind, RecoveryPoint
from farshore.model.policy import ReplicationPolicy
from farshore.model.position import Position
from farshore.vault import Named
from farshore.vault.reading.leases import LeaseKind, live_leases, take_lease
from farshore.vault.upkeep import pins, retention, stored_retention
from farshore.vault.upkeep.collection import collect
from farshore.vault.upkeep.compaction import Tiers, compact
from farshore.vault.upkeep.retention import apply_retention, leaving
from farshore.vault.upkeep.turns import maintain, one_policy
from farshore.vault.upkeep.verify import verify
from farshore.vault.vault import Vault

MINUTE = 60 * 1_000_000_000
NARROW = ReplicationPolicy(hot_window=3600, keep_hourly=1, keep_daily=0)
OLD = Position(Epoch(1), Sequence(32))
"""Not the last state of an hour, so that no policy keeps it."""


@pytest.fixture
def machine() -> Machine:
    made = Machine(memory_vault(), 31, {0: 1 << 20})
    made.step = 7 * MINUTE
    made.fill()
    made.begin_epoch(None)
    made.journal(segments=60, batches=1, count=8)
    return made


def upkeep(machine: Machine, policy: ReplicationPolicy = NARROW) -> None:
    for _ in range(3):
        assert maintain(machine.vault, one_policy(policy), grace=0).troubles == {}


def is_there(machine: Machine, position: Position) -> bool:
    try:
        machine.check(position)
    except (NotFound, Damaged):
        return False
    return True


def named(machine: Machine, name: str, sequence: int, time: int) -> RecoveryPoint:
    at = Position(Epoch(1), Sequence(sequence))
    made = RecoveryPoint(PointId(f"id-{name}"), machine.id, at, time, PointKind.CRASH_CONSISTENT, name)
    machine.in_vault.writing.put_point(made)
    return made


def test_a_pinned_state_outlives_every_upkeep_and_goes_when_it_is_unpinned(machine: Machine) -> None:
    point, new = pins.pin(machine.vault, machine.id, OLD)
    assert (point.position, new) == (OLD, True)
    assert pins.pin(machine.vault, machine.id, OLD)[1] is False
    upkeep(machine)
    assert is_there(machine, OLD)
    assert not is_there(machine, Position(Epoch(1), Sequence(40))), "others go"
    assert OLD in {one.position for one in machine.in_vault.points.listed()}
    assert verify(machine.vault, data=True).findings == []
    assert pins.unpin(machine.vault, machine.id, OLD) is True
    assert pins.unpin(machine.vault, machine.id, OLD) is False
    upkeep(machine)
    assert not is_there(machine, OLD)


def test_what_would_go_is_told_without_what_is_pinned(machine: Machine) -> None:
    going = {point.position for point in leaving(machine.in_vault, NARROW)}
    chosen = sorted(going)[3]
    pins.pin(machine.vault, machine.id, chosen)
    assert {point.position for point in leaving(machine.in_vault, NARROW)} == going - {chosen}


def test_a_pin_counts_by_its_name_if_its_document_is_damaged(machine: Machine) -> None:
    pins.pin(machine.vault, machine.id, OLD)
    machine.vault.store.put(vault_names.pin(machine.id, OLD), [b"damaged"])
    upkeep(machine)
    assert is_there(machine, OLD)


@pytest.mark.parametrize("step", ["condemned", "doomed"])
def test_what_a_collector_has_let_go_is_refused_and_never_pinned_in_vain(machine: Machine, step: str) -> None:
    compact(machine.in_vault, Tiers(segments=4, fan=3))
    apply_retention(machine.in_vault, NARROW)
    collect(machine.vault, one_policy(NARROW), grace=0)
    if step == "doomed":
        collect(machine.vault, one_policy(NARROW), grace=0)
    with pytest.raises((NotFound, Damaged)):
        pins.pin(machine.vault, machine.id, OLD)
    assert pins.pinned(machine.vault, machine.id) == set()
    assert live_leases(machine.vault.store, machine.vault.upkeep_key, 0) == []


def test_what_lies_in_a_merged_range_is_refused_though_it_still_opens(machine: Machine) -> None:
    compact(machine.in_vault, Tiers(segments=4, fan=3))
    apply_retention(machine.in_vault, NARROW)
    machine.check(OLD)
    with pytest.raises(NotFound, match="no longer available"):
        pins.pin(machine.vault, machine.id, OLD)
    upkeep(machine)


def test_a_pin_that_comes_while_ranges_are_merged_holds(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Retention has made its plan and knows nothing of the pin: it merges over it."""
    plain = retention.plan_retention

    def planned(*arguments: Any, **options: Any) -> retention.Plan:
        plan = plain(*arguments, **options)
        pins.pin(machine.vault, machine.id, OLD)
        return plan

    monkeypatch.setattr(retention, "plan_retention", planned)
    apply_retention(machine.in_vault, NARROW)
    monkeypatch.undo()
    assert any(
        one.layer.first <= OLD.sequence < one.layer.end - 1
        for one in machine.in_vault.stored.timeline().data_layers(Epoch(1))
    )
    upkeep(machine)
    assert is_there(machine, OLD)


def test_a_crash_before_the_pin_is_there_leaves_a_lease_that_holds_until_it_expires(machine: Machine) -> None:
    lease = take_lease(machine.vault.store, machine.vault.upkeep_key, LeaseKind.READ, machine.id, OLD)
    assert lease is not None
    upkeep(machine)
    assert pins.pin(machine.vault, machine.id, OLD)[1] is True, "repeated while the lease lives"
    lease.release()
    upkeep(machine)
    assert is_there(machine, OLD)


def test_where_the_epoch_of_a_pin_is_lost_nothing_of_the_machine_goes(machine: Machine) -> None:
    pins.pin(machine.vault, machine.id, OLD)
    machine.vault.store.delete(vault_names.epoch(machine.id, Epoch(1)))
    machine.begin_epoch(None)
    machine.journal(segments=40, batches=1, count=4)
    names = {item.name for item in machine.vault.store.list(vault_names.machine_folder(machine.id))}
    done = maintain(machine.vault, one_policy(NARROW), grace=0)
    assert "pinned" in str(done.troubles[machine.id])
    assert names <= {item.name for item in machine.vault.store.list(vault_names.machine_folder(machine.id))}


def test_a_vault_in_the_older_format_takes_no_pins(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pins, "read_descriptor", lambda _store: {"format": 1})
    with pytest.raises(Unsupported):
        pins.pin(machine.vault, machine.id, OLD)


def test_a_deleted_point_loses_its_name_and_keeps_its_state(machine: Machine) -> None:
    made = named(machine, "before", 400, machine.time - 70 * MINUTE)
    assert pins.delete_point(machine.vault, machine.id, Named("before")) == made
    with pytest.raises(NotFound):
        machine.in_vault.points.resolve(Named("before"))
    machine.check(made.position)
    with pytest.raises(NotFound):
        pins.delete_point(machine.vault, machine.id, Named("before"))


def test_pinned_points_and_moments_of_the_stream_are_not_deleted(machine: Machine) -> None:
    made = named(machine, "kept", 400, machine.time - 70 * MINUTE)
    pins.pin(machine.vault, machine.id, Named("kept"))
    with pytest.raises(Refused, match="pinned"):
        pins.delete_point(machine.vault, machine.id, Named("kept"))
    with pytest.raises(Refused, match="cut by Farshore itself"):
        pins.delete_point(machine.vault, machine.id, Position(Epoch(1), Sequence(200)))
    assert machine.in_vault.points.resolve(Named("kept")) == made


def test_a_named_point_goes_by_retention_unless_it_is_pinned(machine: Machine) -> None:
    oldest = machine.in_vault.points.listed()[0].time
    for name, sequence in (("gone", 44), ("stays", 51)):
        named(machine, name, sequence, oldest + sequence * MINUTE)
    pins.pin(machine.vault, machine.id, Named("stays"))
    upkeep(machine)
    assert machine.in_vault.points.resolve(Named("stays")).position.sequence == 51
    with pytest.raises(NotFound):
        machine.in_vault.points.resolve(Named("gone"))


def test_an_open_reader_reads_a_pinned_state_as_it_was(machine: Machine) -> None:
    pins.pin(machine.vault, machine.id, OLD)
    source = machine.in_vault.disks.open(OLD, DiskNumber(0))
    upkeep(machine)
    assert read(source, 0, source.size) == machine.states[OLD][0]
    source.close()


# What the vault knows of retention.


def test_the_vault_knows_the_retention_that_was_written_last(machine: Machine) -> None:
    assert stored_retention.read(machine.vault, machine.id) is None
    assert stored_retention.write(machine.vault, machine.id, NARROW) is True
    assert stored_retention.write(machine.vault, machine.id, NARROW) is False
    wide = ReplicationPolicy(name="wide", hot_window=7 * 86400, keep_weekly=3)
    assert stored_retention.write(machine.vault, machine.id, wide) is True
    known = stored_retention.read(machine.vault, machine.id)
    assert known is not None
    assert (known.name, known.hot_window, known.keep_hourly, known.keep_daily, known.keep_weekly) == (
        "wide", 7 * 86400, 48, 14, 3,
    )  # fmt: skip
    assert len(list(machine.vault.store.list(vault_names.retention_folder(machine.id)))) == 1
    assert verify(machine.vault, data=True).findings == []


def test_a_crash_between_a_new_version_and_the_end_of_the_older_one_is_harmless(machine: Machine) -> None:
    stored_retention.write(machine.vault, machine.id, NARROW)
    first = next(iter(machine.vault.store.list(vault_names.retention_folder(machine.id)))).name
    held = bytes(machine.vault.store.get(first))
    stored_retention.write(machine.vault, machine.id, ReplicationPolicy(name="wide"))
    machine.vault.store.put(first, [held])
    known = stored_retention.read(machine.vault, machine.id)
    assert known is not None
    assert known.name == "wide"


def test_a_damaged_retention_lets_nothing_go_and_is_written_anew(machine: Machine) -> None:
    stored_retention.write(machine.vault, machine.id, NARROW)
    name = next(iter(machine.vault.store.list(vault_names.retention_folder(machine.id)))).name
    machine.vault.store.put(name, [b"x" * 200])
    before = machine.in_vault.points.listed()

    def policy_of(one: MachineId) -> ReplicationPolicy:
        return stored_retention.stored_or_all(machine.vault, one)

    done = maintain(machine.vault, policy_of, grace=0)
    assert machine.id in done.troubles
    assert machine.in_vault.points.listed() == before
    assert stored_retention.write(machine.vault, machine.id, NARROW) is True
    assert stored_retention.read(machine.vault, machine.id) is not None


def test_a_machine_without_known_retention_keeps_every_point(machine: Machine) -> None:
    assert leaving(machine.in_vault, stored_retention.stored_or_all(machine.vault, machine.id)) == []


def test_another_server_sees_what_is_pinned(machine: Machine) -> None:
    other = Vault(machine.vault.store, machine.vault.id, machine.vault._keys)
    pins.pin(other, machine.id, OLD)
    upkeep(machine)
    assert is_there(machine, OLD)
