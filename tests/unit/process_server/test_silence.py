"""While nothing is written, one segment stands for all marks so far."""

from __future__ import annotations

import numpy as np
import pytest
from tests.unit.vault.synthetic import MACHINE

from farshore.formats.batch import Batch, Role
from farshore.formats.record import RECORD, RecordKind
from farshore.formats.segment import SegmentIndex
from farshore.formats.vault_names import SegmentName
from farshore.model.identifiers import DiskNumber, Epoch, Sequence
from farshore.process_server.streams.silence import extended
from farshore.vault import OwnerKey, Vault, open_store
from farshore.vault.machine import MachineVault
from farshore.vault.objects.epochs import EpochDisk, EpochRecord
from farshore.vault.objects.segments import SealedBatch, SegmentBuilder

SECOND = 1_000_000_000
BEGIN = 1_700_000_000 * SECOND
EPOCH = Epoch(1)


@pytest.fixture
def machine(tmp_path) -> MachineVault:
    OwnerKey.generate_file(tmp_path / "owner.key")
    vault = Vault.create(open_store("memory:///"), OwnerKey.from_file(tmp_path / "owner.key"))
    return vault.machine(MACHINE, create=True)


def batch(first: int, seconds: float, kind: RecordKind = RecordKind.MARK, count: int = 1) -> Batch:
    records = np.zeros(count, RECORD)
    records["kind"] = kind
    if kind is RecordKind.ZERO:
        records["sectors"] = 8
    records["time_us"] = np.arange(count) * 1000
    return Batch(MACHINE, EPOCH, Role.JOURNAL, Sequence(first), BEGIN + int(seconds * SECOND), records, b"")


def sealed(machine: MachineVault, *batches: Batch) -> list[SealedBatch]:
    builder = SegmentBuilder(machine.key, machine.id, EPOCH, Role.JOURNAL)
    return [builder.seal(one) for one in batches]


def test_each_stretch_holds_all_marks_since_the_last_write(machine: MachineVault) -> None:
    one = extended(None, sealed(machine, batch(5, 0.0), batch(6, 5.0)))
    assert one is not None
    two = extended(one, sealed(machine, batch(7, 10.5, count=2)))
    assert two is not None
    assert (two.first, two.end) == (5, 9)
    assert two.records["time_us"].tolist() == [0, 5_000_000, 10_500_000, 10_501_000]
    assert extended(two, sealed(machine, batch(9, 11.0, RecordKind.ZERO))) is None
    assert extended(two, sealed(machine, batch(9, 11.0), batch(10, 12.0, RecordKind.ZERO))) is None
    after = extended(None, sealed(machine, batch(10, 20.0)))
    assert after is not None
    assert after.first == 10


@pytest.mark.parametrize(
    ("first", "seconds", "why"),
    [(8, 10.0, "records lie between"), (7, 4.0, "the clock was set back"), (7, 3700.0, "it gets too long")],
)
def test_a_stretch_ends(machine: MachineVault, first: int, seconds: float, why: str) -> None:
    before = extended(None, sealed(machine, batch(5, 0.0), batch(6, 5.0)))
    found = extended(before, sealed(machine, batch(first, seconds)))
    assert found is not None
    assert found.first == first, why
    assert found.base_time == BEGIN + int(seconds * SECOND)


def put(machine: MachineVault, builder: SegmentBuilder) -> None:
    machine.writing.put_segment(builder.build())


def test_a_state_behind_hours_of_silence_rests_on_few_segments(machine: MachineVault) -> None:
    put(machine, SegmentBuilder.from_sealed(machine.key, sealed(machine, batch(1, 0.0, RecordKind.ZERO))))
    silence = None
    for number in range(400):
        silence = extended(silence, sealed(machine, batch(2 + number, 10.0 * (1 + number))))
        assert silence is not None
        builder = SegmentBuilder(machine.key, machine.id, EPOCH, Role.JOURNAL)
        builder.add(builder.seal(silence.batch()))
        put(machine, builder)
    put(machine, SegmentBuilder.from_sealed(machine.key, sealed(machine, batch(402, 4020.0, RecordKind.ZERO))))
    disk = EpochDisk(DiskNumber(0), 1 << 20, mapped=False)
    machine.writing.put_epoch(EpochRecord(EPOCH, "initial", None, Sequence(0), BEGIN, Sequence(1), (disk,)))
    timeline = machine.stored.timeline()
    assert timeline.newest(EPOCH) == (402, BEGIN + 4020 * SECOND)
    chain = timeline.run(EPOCH, Role.JOURNAL).chain
    assert [one.segment.first for one in chain] == [1, 2, 363, 402], "an hour each"
    for sequence, held in ((200, 2), (362, 2), (363, 3), (401, 3)):
        pieces = timeline.cover(EPOCH, Sequence(sequence))
        assert len(pieces) == held
        found: SegmentIndex = machine.stored.segment_index(pieces[-1].stored)[1]  # type: ignore[arg-type]
        assert found.first_sequence <= sequence < found.end_sequence
    at = machine.points.listed(timeline=timeline)[-1]
    assert isinstance(chain[1].segment, SegmentName)
    assert (at.position.sequence, at.time) == (402, BEGIN + 4020 * SECOND)
