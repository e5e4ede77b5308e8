"""Every state that a machine went through comes back byte for byte."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
from tests.unit.vault.faulty_store import KillableStore
from tests.unit.vault.synthetic import DESCRIPTION, START, STEP, Machine, cut, new_vault, read

from farshore.formats.batch import Role
from farshore.formats.record import RecordKind
from farshore.model.errors import Damaged, Forbidden, NoSpace, NotFound
from farshore.model.identifiers import BLOCK, CHUNK, DiskNumber, Epoch, PointId, Sequence
from farshore.model.point import PointKind, RecoveryPoint
from farshore.model.position import Position
from farshore.vault import AtTime, EpochRecord, Latest, Named, Vault, restore_to_raw
from farshore.vault.objects.segments import SegmentBuilder
from farshore.vault.reading import raw_target
from farshore.vault.stores.folder import FolderStore

SIZES = {0: 3 << 20, 1: (1 << 20) + 3 * 512}


@pytest.fixture
def machine(tmp_path):
    made = Machine(new_vault(tmp_path)[0], 5, SIZES)
    made.fill()
    made.begin_epoch(None)
    return made


def test_every_batch_of_the_journal_can_be_opened(machine):
    machine.journal(segments=4, batches=3, count=40)
    for position in machine.states:
        machine.check(position)


def test_a_single_record_inside_a_segment_can_be_opened(machine):
    before = {number: bytearray(data) for number, data in machine.disks.items()}
    batch = machine.batch(30)
    builder = SegmentBuilder(machine.in_vault.key, machine.in_vault.id, Epoch(1), Role.JOURNAL)
    builder.add(builder.seal(batch))
    machine.in_vault.writing.put_segment(builder.build())
    for count in range(31):
        shorter = cut(batch, count)
        state = {number: bytearray(data) for number, data in before.items()}
        offset = 0
        for row in shorter.records:
            length = int(row["sectors"]) * 512
            start = int(row["sector"]) * 512
            if row["kind"] in (1, 5):
                if row["kind"] == 1:
                    state[int(row["disk"])][start : start + length] = shorter.payload[offset : offset + length]
                offset += length
            elif row["kind"] in (2, 3):
                state[int(row["disk"])][start : start + length] = bytes(length)
        for number, expected in state.items():
            source = machine.in_vault.disks.open(Position(Epoch(1), Sequence(count)), DiskNumber(number))
            assert read(source, 0, source.size) == bytes(expected)
            source.close()


def test_an_epoch_on_top_of_a_parent_shows_both(machine):
    machine.journal(2, 2, 40)
    parent = Position(Epoch(1), Sequence(80))
    machine.go_back(parent)
    machine.disks[0][70_000:75_000] = b"x" * 5000
    assert machine.begin_epoch(parent, "resync", overlay=10) <= 2
    machine.journal(2, 2, 40)
    machine.go_back(Position(Epoch(2), Sequence(120)))
    machine.begin_epoch(Position(Epoch(2), Sequence(120)), "heal", overlay=10)
    machine.journal(1, 1, 40)
    for position in machine.states:
        machine.check(position)


def test_a_grown_disk_and_a_new_disk_appear_with_their_epoch(machine):
    machine.journal(1, 1, 40)
    machine.disks[1] += machine.random.randbytes(1 << 20)
    machine.disks[2] = bytearray(machine.random.randbytes(200_704))
    machine.begin_epoch(Position(Epoch(1), Sequence(40)), "resync")
    machine.journal(1, 2, 40)
    for position in machine.states:
        machine.check(position)


def test_a_second_machine_with_the_same_disk_sends_nothing(machine):
    twin = Machine(machine.vault, 6, SIZES, machine.id.replace("7", "8"))
    twin.disks = {number: bytearray(data) for number, data in machine.disks.items()}
    assert twin.begin_epoch(None) == 0
    twin.check(Position(Epoch(1), Sequence(0)))


def test_states_before_the_base_is_complete_are_refused(machine):
    machine.journal(1, 1, 40)
    found = machine.in_vault
    assert found.writing.put_epoch(
        EpochRecord(Epoch(2), "heal", Position(Epoch(1), Sequence(40)), Sequence(20), 1, Sequence(1), ())
    )
    with pytest.raises(NotFound, match="before the copy"):
        found.points.resolve(Position(Epoch(2), Sequence(10)))
    # Its document is stored after the records that it tells of: they are lost.
    with pytest.raises(Damaged, match=r"records 1 to 20 of epoch 2 .* newest state before it is 1:40"):
        found.points.latest()


def test_points_by_time_name_and_kind(machine):
    machine.journal(3, 2, 40)
    end = machine.time
    named = RecoveryPoint(
        PointId("p1"), machine.id, Position(Epoch(1), Sequence(90)), end - 3 * STEP, PointKind.APP_CONSISTENT, "quiet"
    )
    machine.in_vault.writing.put_point(named)
    found = machine.in_vault
    assert found.points.latest().position == Position(Epoch(1), Sequence(240))
    assert found.points.resolve(Latest.ANY).position == found.points.latest().position
    assert found.points.resolve(Latest.APP_CONSISTENT) == named
    assert found.points.resolve(Named("quiet")) == named
    assert found.points.resolve(Named("p1")) == named
    assert found.points.resolve(Named("1:77")).position == Position(Epoch(1), Sequence(77))
    # Batch k begins k seconds after the epoch; its records follow each other by 10 µs.
    assert found.points.resolve(AtTime(end - STEP - 1)).position == Position(Epoch(1), Sequence(160))
    assert found.points.resolve(AtTime(end + 5 * 10_000)).position == Position(Epoch(1), Sequence(206))
    with pytest.raises(NotFound, match="newest state"):
        found.points.resolve(AtTime(end + STEP))
    with pytest.raises(NotFound, match="oldest state"):
        found.points.resolve(AtTime(1))
    with pytest.raises(NotFound):
        found.points.resolve(Named("missing"))
    assert [point.kind for point in found.points.listed() if point.name] == [PointKind.APP_CONSISTENT]
    assert found.points.listed(limit=1) == [found.points.latest()]
    assert found.stored.description(named.position) == DESCRIPTION


def test_overlapping_segments_of_a_repeated_upload_are_read_once(machine):
    first, second, third = machine.batch(40), machine.batch(40), machine.batch(40)
    for group in ([first], [first, second], [second, third]):
        builder = SegmentBuilder(machine.in_vault.key, machine.in_vault.id, Epoch(1), Role.JOURNAL)
        for batch in group:
            builder.add(builder.seal(batch))
        machine.in_vault.writing.put_segment(builder.build())
    for position in machine.states:
        machine.check(position)


def allocated(path: Path) -> int:
    return path.stat().st_blocks * 512


def test_a_restored_file_equals_the_state(machine, tmp_path):
    machine.journal(2, 2, 40)
    machine.begin_epoch(Position(Epoch(1), Sequence(160)), "heal", overlay=10)
    machine.journal(1, 2, 40)
    for number, (position, state) in enumerate(machine.states.items()):
        for disk, expected in state.items():
            source = machine.in_vault.disks.open(position, DiskNumber(disk))
            target = tmp_path / f"{number}-{disk}.raw"
            restore_to_raw(source, target)
            source.close()
            assert target.read_bytes() == expected
            if position.epoch == 1:
                chunks = [expected[start : start + CHUNK] for start in range(0, len(expected), CHUNK)]
                assert allocated(target) <= sum(CHUNK for chunk in chunks if any(chunk))


@pytest.mark.parametrize("holes", [True, False])
def test_a_disk_that_was_discarded_takes_no_space(machine, tmp_path, monkeypatch, holes):
    """Writes under a discard are never laid down for good, in whole chunks or within one; nor where the file system
    has no holes, but for those that the journal itself undid."""
    if not holes:
        monkeypatch.setattr(raw_target, "punch", lambda *_: False)
    machine.journal(1, 2, 40)
    kept = 3 * CHUNK + 2 * BLOCK
    machine.write(RecordKind.WRITE, 0, 0, 8 * CHUNK)
    machine.write(RecordKind.DISCARD, 0, 0, kept)
    machine.write(RecordKind.DISCARD, 0, kept + BLOCK, (3 << 20) - kept - BLOCK)
    source = machine.in_vault.disks.open(machine.in_vault.points.latest().position, DiskNumber(0))
    target = tmp_path / "disk.raw"
    restore_to_raw(source, target)
    source.close()
    assert target.read_bytes() == bytes(machine.disks[0])
    assert any(machine.disks[0][kept : kept + BLOCK])
    if holes:
        assert allocated(target) == BLOCK
    else:
        assert allocated(target) > BLOCK


@pytest.mark.parametrize("refusal", [Forbidden("read-only", remedy="."), NoSpace("full", remedy=".")])
def test_a_vault_that_cannot_be_written_can_still_be_read(machine, refusal):
    machine.journal(1, 1, 40)
    store = KillableStore(machine.vault.store)
    store.refusal = refusal
    vault = Vault.open_with_vault_key(store, bytes.fromhex(machine.vault.key_hex))
    found = vault.machine(machine.id)
    source = found.disks.open(found.points.latest().position, DiskNumber(0))
    assert read(source, 0, source.size) == machine.states[found.points.latest().position][0]
    source.close()


def test_a_folder_on_a_read_only_mount_refuses_writes_by_name(tmp_path, monkeypatch):
    def refuse(*arguments):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr("farshore.vault.stores.folder.os.link", refuse)
    with pytest.raises(Forbidden, match="read-only"):
        FolderStore(tmp_path).put_if_absent("name", [b"1"])


def test_an_epoch_of_rounds_has_no_states_but_its_points(machine):
    """Without data mode the journal between two points is out of order: nothing may offer or open it."""
    machine.journal(2, 2, 40)
    machine.go_back(Position(Epoch(1), Sequence(160)))
    machine.begin_epoch(Position(Epoch(1), Sequence(160)), "resync", only_points=True)
    machine.journal(2, 2, 40)
    states = {position: state for position, state in machine.states.items() if position.epoch == 2}
    middle, end = Position(Epoch(2), Sequence(80)), Position(Epoch(2), Sequence(120))
    assert machine.in_vault.points.latest().position == Position(Epoch(1), Sequence(160))
    for number, position in enumerate((middle, end)):
        point = RecoveryPoint(
            PointId(f"round-{number}"), machine.id, position, START + 100 * STEP, PointKind.FILE_SYSTEM_CONSISTENT, ""
        )
        machine.in_vault.writing.put_point(point)
    assert machine.in_vault.points.latest().id == "round-1"
    listed = [point.position for point in machine.in_vault.points.listed() if point.position.epoch == 2]
    assert listed == [middle, end]
    for position in states:
        if position in (middle, end):
            machine.check(position)
        else:
            with pytest.raises(NotFound, match="between two rounds"):
                machine.in_vault.disks.open(position, DiskNumber(0))
    late = machine.in_vault.points.resolve(AtTime(START + 100 * STEP))
    assert late.position in (middle, end)
