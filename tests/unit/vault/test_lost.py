"""What is missing from a vault is found, and the newest state is not quietly an older one."""

from __future__ import annotations

import time

import pytest
from tests.unit.vault.synthetic import DESCRIPTION, Machine, memory_vault

from farshore.formats import vault_names
from farshore.model.errors import Damaged, NotFound
from farshore.model.identifiers import Epoch, MachineId, PointId, Sequence
from farshore.model.point import PointKind, RecoveryPoint
from farshore.model.policy import ReplicationPolicy
from farshore.model.position import Position
from farshore.vault import AtTime, Latest, Vault
from farshore.vault.objects.opening import seal_document
from farshore.vault.upkeep.collection import collect
from farshore.vault.upkeep.compaction import Tiers, compact
from farshore.vault.upkeep.retention import apply_retention
from farshore.vault.upkeep.scrub import DAY, affecting_newest, scrub
from farshore.vault.upkeep.verify import verify

MINUTE = 60 * 10**9
POLICY = ReplicationPolicy(hot_window=3600, keep_hourly=4, keep_daily=2)


def reopen(machine: Machine) -> Vault:
    machine.vault = Vault.open_with_vault_key(machine.vault.store, bytes.fromhex(machine.vault.key_hex))
    machine.in_vault = machine.vault.machine(machine.id)
    return machine.vault


def two_epochs() -> Machine:
    """The second rests on the first one's last state."""
    made = Machine(memory_vault(), 8, {0: 64 << 10})
    made.fill()
    made.begin_epoch(None)
    made.journal(3, 1, 4)
    made.begin_epoch(Position(Epoch(1), Sequence(12)), "heal")
    made.journal(3, 1, 4)
    return made


def merged() -> Machine:
    """A machine whose older hours are merged, and their segments gone."""
    made = Machine(memory_vault(), 6, {0: 64 << 10})
    made.step = 2 * MINUTE
    made.fill()
    made.begin_epoch(None)
    made.journal(150, 4, 6)
    compact(made.in_vault, Tiers(segments=3, fan=2))
    apply_retention(made.in_vault, POLICY)
    for _ in range(2):
        collect(made.vault, lambda _: POLICY, grace=0)
    return made


def findings(machine: Machine) -> list[str]:
    return [f"{one.object} {one.problem}" for one in verify(reopen(machine)).findings]


def test_a_merged_layer_that_is_gone_is_found_and_latest_is_refused():
    machine = merged()
    assert findings(machine) == []
    layers = sorted(machine.in_vault.stored.timeline().data_layers(Epoch(1)), key=lambda one: one.layer.first)
    lost = layers[1]
    machine.vault.store.delete(lost.object.name)
    (found,) = findings(machine)
    assert f"Records {lost.layer.first} to {lost.layer.end - 1} before it are missing" in found
    with pytest.raises(Damaged, match=f"records {lost.layer.first} to {lost.layer.end - 1} of epoch 1") as refused:
        machine.in_vault.points.latest()
    older = Position(Epoch(1), Sequence(lost.layer.first - 1))
    assert f"--position {older}" in refused.value.remedy
    machine.check(machine.in_vault.points.resolve(older).position)


def test_an_epoch_whose_parents_document_is_gone_is_found_and_offers_no_points():
    machine = two_epochs()
    machine.vault.store.delete(vault_names.epoch(machine.id, Epoch(1)))
    found = findings(machine)
    assert any(vault_names.epoch(machine.id, Epoch(2)) in one and "rests on" in one for one in found)
    assert machine.in_vault.points.listed() == []
    with pytest.raises(Damaged):
        machine.in_vault.points.latest()
    objects = list(machine.vault.store.list("machines/"))
    for _ in range(2):
        done = collect(machine.vault, lambda _: POLICY, grace=0)
    assert list(done.untouched) == [machine.id]
    assert list(machine.vault.store.list("machines/")) == objects


def test_the_last_segments_of_a_parent_that_are_gone_are_found():
    machine = two_epochs()
    name = [item.name for item in machine.vault.store.list("machines/") if "/segments/00000001/" in item.name][-1]
    machine.vault.store.delete(name)
    assert any(vault_names.epoch(machine.id, Epoch(2)) in one for one in findings(machine))


def test_a_newest_epochs_document_that_is_gone_is_found_and_latest_is_refused():
    machine = two_epochs()
    name = vault_names.epoch(machine.id, Epoch(2))
    document = bytes(machine.vault.store.get(name))
    machine.vault.store.delete(name)
    assert [one for one in findings(machine) if one.startswith(name)]
    with pytest.raises(Damaged, match=r"epoch 2.*newest state before it is 1:12"):
        machine.in_vault.points.latest()
    machine.check(machine.in_vault.points.resolve(Position(Epoch(1), Sequence(12))).position)
    # A resync makes new states; what the document would open stays as long as older states do.
    machine.in_vault.writing.put_description(machine.in_vault.stored.description(), 3)
    machine.epoch = 2
    machine.begin_epoch(Position(Epoch(1), Sequence(12)), "resync")
    for _ in range(2):
        collect(reopen(machine), lambda _: POLICY, grace=0)
    assert machine.in_vault.points.latest().position.epoch == 3
    machine.vault.store.put(name, [document])
    reopen(machine)
    machine.check(Position(Epoch(2), Sequence(12)))


def test_an_epoch_whose_copy_was_broken_off_is_no_finding():
    machine = two_epochs()
    machine.epoch = 3
    machine.next = dict.fromkeys(machine.next, 1)
    machine.journal(2, 1, 4)
    assert findings(machine) == []
    assert machine.in_vault.points.latest().position == Position(Epoch(2), Sequence(12))


def lose_segment(machine: Machine, epoch: int, which: int) -> None:
    folder = f"{vault_names.machine_folder(machine.id)}segments/{epoch:08x}/"
    machine.vault.store.delete([item.name for item in machine.vault.store.list(folder)][which])


def put_point(machine: Machine, at: Position, name: str, moment: int) -> None:
    machine.in_vault.writing.put_point(
        RecoveryPoint(PointId(name), machine.id, at, moment, PointKind.APP_CONSISTENT, name),
    )


def test_a_time_or_an_app_consistent_point_behind_a_gap_is_refused_and_others_are_given():
    machine = two_epochs()
    times = {point.position: point.time for point in machine.in_vault.points.listed()}
    put_point(machine, Position(Epoch(1), Sequence(4)), "early", times[Position(Epoch(1), Sequence(4))])
    lose_segment(machine, 1, 1)
    machine.begin_epoch(None, "resync")  # rests on nothing older: the newest state is whole
    reopen(machine)
    assert machine.in_vault.points.latest().position == Position(Epoch(3), Sequence(0))
    with pytest.raises(Damaged, match="records 5 to 8 of epoch 1"):
        machine.in_vault.points.resolve(AtTime(times[Position(Epoch(1), Sequence(12))]))
    with pytest.raises(Damaged, match="records 5 to 8 of epoch 1"):
        machine.in_vault.points.resolve(Latest.APP_CONSISTENT)
    early = times[Position(Epoch(1), Sequence(4))]
    assert machine.in_vault.points.resolve(AtTime(early)).position == Position(Epoch(1), Sequence(4))


@pytest.mark.parametrize("chunks", [False, True])
def test_a_scrub_of_a_running_server_finds_a_key_that_is_gone_or_another(chunks):
    machine = two_epochs()
    other = Machine(machine.vault, 9, {0: 64 << 10}, MachineId(machine.id.replace("7", "3")))
    store = machine.vault.store
    mine = vault_names.CHUNK_KEY if chunks else vault_names.machine_key(machine.id)
    whole = bytes(store.get(mine))

    def step(day: int) -> list[str]:
        return [one.object for one in scrub(machine.vault, 30 * DAY, lambda: day * DAY, lambda _size: True).found]

    assert step(1) == []
    store.delete(mine)
    assert step(2) == [mine]
    if not chunks:
        found = [one for one in verify(machine.vault).findings if one.object == mine]
        assert affecting_newest(machine.vault, machine.id, found) == found
    store.put(mine, [whole[:-40] + bytes([whole[-40] ^ 1]) + whole[-39:]])
    assert [one.object for one in verify(machine.vault).findings] == [mine]
    store.put(mine, [whole])
    assert step(4) == []
    assert verify(machine.vault).findings == []
    assert other.id in machine.vault.machines()


def test_a_scrub_of_a_running_server_finds_a_descriptor_that_is_gone():
    machine = two_epochs()
    machine.vault.store.delete(vault_names.DESCRIPTOR)
    assert [one.object for one in verify(machine.vault).findings] == [vault_names.DESCRIPTOR]


def test_a_machine_without_states_and_an_unknown_one_are_not_taken_for_damage():
    machine = Machine(memory_vault(), 10, {0: 64 << 10})
    with pytest.raises(NotFound):
        machine.in_vault.points.latest()
    assert verify(machine.vault).findings == []
    with pytest.raises(NotFound, match="never protected"):
        machine.vault.machine(MachineId(machine.id.replace("7", "3")))


def test_an_epoch_that_is_just_being_completed_is_not_taken_for_lost():
    machine = two_epochs()
    store = machine.vault.store
    name = vault_names.epoch(machine.id, Epoch(2))
    document = bytes(store.get(name))
    copy = machine.in_vault.bases.begin_copy(
        Epoch(3), [], None
    )  # as if it had stored the description, and no document yet
    machine.in_vault.writing.put_description(DESCRIPTION, 3)
    assert findings(machine) == []
    assert machine.in_vault.points.latest().position.epoch == 2
    copy.close()
    with pytest.raises(Damaged, match="epoch 3"):
        reopen(machine).machine(machine.id).points.latest()
    # One that was complete before a copy began is lost, whoever copies.
    store.delete(vault_names.description(machine.id, 3))
    store.delete(name)
    fields = {"format": 1, "kind": "copy", "machine": machine.id, "position": None}
    later = time.time_ns() + DAY
    late = vault_names.lease("copy", "1")
    store.put(late, seal_document(machine.vault.upkeep_key, late, {**fields, "began": later, "renewed": later}).buffers)
    with pytest.raises(Damaged, match="epoch 2"):
        reopen(machine).machine(machine.id).points.latest()
    store.put(name, [document])
    assert findings(machine) == []


def test_what_rests_on_a_lost_epoch_stays_beside_a_new_base():
    machine = two_epochs()
    machine.begin_epoch(None, "resync")
    name = vault_names.epoch(machine.id, Epoch(1))
    document = bytes(machine.vault.store.get(name))
    machine.vault.store.delete(name)
    for _ in range(2):
        assert list(collect(reopen(machine), lambda _: POLICY, grace=0).untouched) == [machine.id]
    machine.vault.store.put(name, [document])
    reopen(machine)
    machine.check(Position(Epoch(2), Sequence(12)))
