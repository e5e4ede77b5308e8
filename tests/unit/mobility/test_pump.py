"""The pump: order, points exactly where they were asked for, marks when idle, the end after an overflow."""

from __future__ import annotations

from typing import Iterator, List, Tuple

import pytest
from tests.unit.mobility.doubles import MACHINE, FakeClock, RingDouble

from farshore.formats.batch import decode
from farshore.formats.point_payload import PointPayload, decode_point
from farshore.formats.record import RecordKind
from farshore.mobility.stream.backlog import Backlog
from farshore.mobility.stream.batches import Journal
from farshore.mobility.stream.cutting import Asked
from farshore.mobility.stream.pump import BATCH_RING_BYTES, Pump, PumpState
from farshore.mobility.stream.recorded import RecordedSectors
from farshore.mobility.stream.records import Piece, mark_piece
from farshore.model.errors import TryLater
from farshore.model.identifiers import BLOCK, DiskNumber, Sequence
from farshore.model.point import PointKind
from farshore.model.states import CaptureMode

POINT = PointPayload("p1", PointKind.CRASH_CONSISTENT, "name")
DATA = b"\x01" * BLOCK


class Rig:
    def __init__(self, memory_bytes: int = 1 << 20, disk_bytes: int = 1 << 40) -> None:
        self.clock = FakeClock()
        self.ring = RingDouble(self.clock)
        self.backlog = Backlog(None, memory_bytes=memory_bytes)
        journal = Journal(MACHINE, 1, self.clock)
        self.asked = Asked()
        self.pump = Pump(self.ring, journal, self.backlog, self.clock, {DiskNumber(0): disk_bytes}, self.asked)
        self.pump.opened()

    def steps(self) -> PumpState:
        """Until there is nothing to do."""
        for _ in range(100):
            state = self.pump.step()
            if state is not PumpState.WORKED:
                return state
        raise AssertionError("the pump never rests")

    def records(self) -> List[Tuple[int, int]]:
        """(kind, sector) of everything in the backlog, which is emptied."""
        found = []
        while True:
            batch = self.backlog.head(0)
            if batch is None:
                return found
            read = decode(b"".join(bytes(buffer) for buffer in batch.buffers))
            found += [(int(row["kind"]), int(row["sector"])) for row in read.records]
            if (read.records["kind"] == RecordKind.POINT).any():
                assert decode_point(bytes(read.payload)) == POINT
            self.backlog.acknowledge(batch.end)


def test_a_point_lies_exactly_where_it_was_asked_for() -> None:
    rig = Rig()
    rig.ring.write(0, DATA)
    rig.ring.write(80, DATA)
    milestone = rig.pump.milestone(POINT)
    rig.ring.write(160, DATA)
    rig.steps()
    assert milestone.reached
    assert milestone.sequence == 3
    assert [kind for kind, _ in rig.records()] == [1, 1, RecordKind.POINT, 1]


def test_a_point_that_the_pump_reaches_late_has_the_time_at_which_it_was_asked_for() -> None:
    rig = Rig()
    rig.ring.write(0, DATA)
    asked = rig.clock.now()
    milestone = rig.pump.milestone(POINT)
    rig.clock.move(4.5)
    rig.ring.write(80, DATA)  # this the point does not hold, so it must not be as young
    rig.steps()
    assert milestone.time == asked


def test_a_milestone_without_a_point_tells_the_sequence_only() -> None:
    rig = Rig()
    rig.ring.write(0, DATA)
    milestone = rig.pump.milestone()
    rig.ring.write(80, DATA)
    rig.steps()
    assert milestone.sequence == 1
    assert len(rig.records()) == 2


def test_an_idle_machine_gets_marks_and_a_busy_one_none() -> None:
    rig = Rig()
    rig.steps()
    assert [kind for kind, _ in rig.records()] == [RecordKind.MARK]
    rig.steps()
    assert rig.records() == []
    rig.clock.move(1.1)
    rig.ring.write(0, DATA)
    rig.steps()
    assert [kind for kind, _ in rig.records()] == [1]


def test_in_bitmap_mode_there_are_no_marks_and_no_points() -> None:
    rig = Rig()
    rig.ring.write(0, DATA)
    rig.ring.mode = CaptureMode.BITMAP
    milestone = rig.pump.milestone(POINT)
    with pytest.raises(TryLater):
        milestone.wait(0)
    assert rig.steps() is PumpState.ENDED
    assert [kind for kind, _ in rig.records()] == [1]


def test_a_point_asked_for_before_the_overflow_is_still_true() -> None:
    rig = Rig()
    rig.ring.write(0, DATA)
    milestone = rig.pump.milestone(POINT)
    rig.ring.mode = CaptureMode.BITMAP
    assert rig.steps() is PumpState.ENDED
    assert milestone.reached


def test_a_point_whose_freeze_did_not_hold_fails() -> None:
    rig = Rig()
    milestone = rig.pump.milestone(POINT, still=lambda: False)
    rig.steps()
    assert not milestone.reached


def test_before_data_mode_begins_bitmap_mode_is_no_end() -> None:
    rig = Rig()
    rig.pump._opening = True
    rig.ring.mode = CaptureMode.BITMAP
    assert rig.pump.step() is PumpState.IDLE
    rig.pump.opened()
    assert rig.pump.step() is PumpState.ENDED


def test_records_that_are_still_being_added_in_bitmap_mode_belong_to_the_epoch() -> None:
    rig = Rig()
    rig.ring.late.append(lambda: rig.ring.write(16, DATA))  # its run had begun in data mode, and is in no bitmap
    rig.ring.write(0, DATA)
    rig.ring.mode = CaptureMode.BITMAP
    assert rig.steps() is PumpState.ENDED
    assert rig.ring.drained() == rig.ring.position()
    assert rig.records() == [(RecordKind.WRITE, 0), (RecordKind.WRITE, 16)]


def test_a_look_at_the_mode_from_before_data_mode_began_ends_nothing() -> None:
    rig = Rig()
    rig.ring.mode = CaptureMode.BITMAP
    rig.ring.at_rest = lambda: False  # type: ignore[method-assign]
    assert rig.steps() is PumpState.IDLE


def test_a_full_backlog_leaves_the_rest_in_the_ring() -> None:
    rig = Rig(memory_bytes=6_000)
    for block in range(4):
        rig.ring.write(block * 800, DATA)
        rig.pump.step()
    assert rig.pump.step() is PumpState.HELD
    assert rig.ring.drained() < rig.ring.position()
    seen = []
    for _ in range(10):
        seen += rig.records()
        rig.pump.step()
    assert [sector for kind, sector in seen if kind == 1] == [0, 800, 1600, 2400]


def test_what_is_written_behind_the_end_of_a_disk_that_has_grown_is_left_to_the_next_epoch() -> None:
    rig = Rig(disk_bytes=BLOCK)
    rig.ring.write(8, DATA)
    rig.steps()
    rig.ring.write(0, DATA)
    rig.ring.write(16, DATA)
    rig.steps()
    assert [one for one in rig.records() if one[0] != RecordKind.MARK] == [(1, 0)]


def test_missed_blocks_are_mended_between_what_comes_before_and_after() -> None:
    rig = Rig()
    rig.ring.write(0, DATA)
    rig.ring.mode = CaptureMode.BITMAP
    assert rig.steps() is PumpState.ENDED
    rig.pump.reopen()
    assert rig.pump.step() is PumpState.IDLE  # the switch is under way
    rig.ring.mode = CaptureMode.DATA
    rig.pump.opened()
    looked: List[int] = []

    def missed(recorded: RecordedSectors) -> Iterator[Piece]:
        for sector in (800, 1600):
            rig.ring.write(sector, DATA)  # written while it is read: must follow what is read
            looked.append(sector)
            made = mark_piece(0)
            made.records["sector"], made.records["sectors"], made.records["kind"] = sector, 8, RecordKind.ZERO
            yield made

    rig.pump.mend(missed)
    too_early = rig.pump.milestone()
    assert not rig.pump.whole
    rig.steps()
    assert rig.pump.whole
    assert not too_early.reached
    assert rig.records() == [(1, 0), (2, 800), (1, 800), (2, 1600), (1, 1600)]
    after = rig.pump.milestone()
    rig.steps()
    assert after.sequence == 5


def test_a_second_overflow_while_mending_stops_the_mending() -> None:
    rig = Rig()
    rig.ring.mode = CaptureMode.BITMAP
    rig.steps()
    rig.pump.reopen()
    rig.ring.mode = CaptureMode.DATA
    rig.pump.opened()
    rig.pump.mend(lambda recorded: iter([mark_piece(0)] * 100))
    rig.pump.step()
    rig.ring.mode = CaptureMode.BITMAP
    assert rig.steps() is PumpState.ENDED
    assert not rig.pump.whole


def test_how_long_the_ring_has_waited_is_told() -> None:
    rig = Rig(memory_bytes=6_000)
    rig.clock.move(3)
    for block in range(4):
        rig.ring.write(block * 800, DATA)
    assert rig.pump.behind() == pytest.approx(3), "since the ring was last known to be empty"
    rig.pump.step()
    assert rig.pump.behind() == 0
    rig.clock.move(2)
    rig.ring.write(8000, DATA)
    rig.pump.step()
    assert rig.pump.step() is PumpState.HELD
    rig.clock.move(5)
    assert rig.pump.behind() == pytest.approx(7), "what the backlog has no room for has waited too"


def test_acknowledgements_can_be_waited_for() -> None:
    rig = Rig()
    rig.ring.write(0, DATA)
    rig.steps()
    assert not rig.backlog.wait_acknowledged(Sequence(1), 0)
    rig.records()
    assert rig.backlog.wait_acknowledged(Sequence(1), 0)


def batches(rig: Rig, seconds: float, every: float = 0.0) -> List[float]:
    """Run the pump by the clock for ``seconds``, one write ``every`` seconds (0: none); the moments of the batches."""
    moments: List[float] = []
    begin = rig.clock.monotonic()
    written, ahead = begin, rig.pump.captured
    while rig.clock.monotonic() - begin < seconds:
        if every and rig.clock.monotonic() - written >= every:
            rig.ring.write(8, DATA)
            written = rig.clock.monotonic()
        if rig.pump._due():
            rig.pump.step()
        if rig.pump.captured > ahead:
            ahead = rig.pump.captured
            moments.append(rig.clock.monotonic() - begin)
            rig.records()  # acknowledged
        rig.clock.move(0.04)
    return moments


@pytest.mark.parametrize(("rpo", "apart"), [(1.0, 0.25), (5.0, 1.0), (900.0, 1.0)])
def test_records_wait_for_others_as_long_as_the_policy_allows(rpo: float, apart: float) -> None:
    rig = Rig()
    rig.asked.rpo = rpo
    moments = batches(rig, 20.0, every=0.01)
    gaps = [after - before for before, after in zip(moments, moments[1:])]  # noqa: B905, RUF007 - Python 3.9
    assert all(apart <= gap <= apart + 0.09 for gap in gaps), gaps
    assert len(gaps) > 15


def test_a_write_after_a_silence_waits_for_nobody_though_marks_were_cut() -> None:
    rig = Rig()
    batches(rig, 5.5)
    rig.ring.write(0, DATA)
    assert rig.pump._due(), "the mark before it was no batch that it could have gone with"


@pytest.mark.parametrize(("rpo", "number"), [(1.0, 30), (3.0, 15), (5.0, 6)])
def test_marks_keep_an_idle_machine_as_young_as_the_policy_asks(rpo: float, number: int) -> None:
    rig = Rig()
    rig.asked.rpo = rpo
    assert len(batches(rig, 30.0)) in (number, number + 1, number - 1)


def test_a_milestone_a_filling_ring_and_the_end_of_data_mode_wait_for_nobody() -> None:
    rig = Rig()
    rig.steps()
    rig.ring.write(0, DATA)
    rig.steps()
    rig.records()
    rig.ring.write(0, DATA)
    assert not rig.pump._due()
    rig.pump.milestone()
    assert rig.pump._due()
    rig.steps()
    rig.ring.write(0, DATA)
    assert not rig.pump._due()
    rig.ring.mode = CaptureMode.BITMAP
    assert rig.pump._due()
    rig.ring.mode = CaptureMode.DATA
    while not rig.pump._due():
        rig.ring.write(0, DATA)
    assert rig.ring.position() - rig.ring.drained() == pytest.approx(BATCH_RING_BYTES, abs=2 * BLOCK)
