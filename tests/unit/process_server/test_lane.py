"""The marks of a lane: what follows what, what is due when, what a failed store costs."""

from __future__ import annotations

import pytest

from farshore.formats.batch import Role
from farshore.formats.spool import FrameHeader, FrameKind
from farshore.model.errors import Gap
from farshore.model.identifiers import Epoch, MachineId, Sequence
from farshore.process_server.spool.file import FrameReference
from farshore.process_server.streams.lane import SEGMENT_BYTES, Lane

MACHINE = MachineId("00000000-0000-4000-8000-000000000001")
SEAL = 0.5


def frame(first: int, end: int, size: int = 1000) -> FrameReference:
    header = FrameHeader(FrameKind.BATCH, MACHINE, Epoch(1), Role.JOURNAL, Sequence(first), Sequence(end), end * 10)
    return FrameReference(header, None, 0, size + 96, size)  # type: ignore[arg-type]


def test_new_repeated_and_missing() -> None:
    lane = Lane(accepted=11)
    assert lane.check_next(11, 21)
    assert not lane.check_next(1, 11)
    assert not lane.check_next(5, 8)
    for first, end in ((12, 20), (5, 15)):
        with pytest.raises(Gap) as caught:
            lane.check_next(first, end)
        assert caught.value.expected == 11


def test_nothing_is_due_while_nothing_waits_or_a_segment_is_being_stored() -> None:
    lane = Lane()
    assert lane.due_in(0, SEAL) is None
    lane.placed(frame(1, 11), 100.0)
    lane.take()
    assert lane.due_in(200.0, SEAL) is None


def test_due_after_the_sealing_time_or_at_once_when_a_segment_is_full_or_wanted() -> None:
    lane = Lane()
    lane.placed(frame(1, 11), 100.0)
    assert lane.due_in(100.2, SEAL) == pytest.approx(0.3)
    assert lane.due_in(101.0, SEAL) == 0
    lane.hurry = True
    assert lane.due_in(100.0, SEAL) == 0
    lane.hurry = False
    lane.placed(frame(11, 12, SEGMENT_BYTES), 100.0)
    assert lane.due_in(100.0, SEAL) == 0


def test_a_segment_takes_neighbours_up_to_its_size_and_at_least_one() -> None:
    lane = Lane()
    for number in range(1, 6):
        lane.placed(frame(number, number + 1, SEGMENT_BYTES // 2), 0.0)
    assert [one.header.first_sequence for one in lane.take()] == [1, 2]
    large = Lane()
    large.placed(frame(1, 2, SEGMENT_BYTES * 3), 0.0)
    large.placed(frame(2, 3), 0.0)
    assert len(large.take()) == 1


def test_marks_follow_what_was_stored() -> None:
    lane = Lane()
    frames = [frame(1, 11), frame(11, 21), frame(21, 31)]
    for one in frames:
        lane.placed(one, 0.0)
    assert (lane.accepted, lane.durable, lane.stored) == (31, 31, 1)
    lane.take()
    lane.is_stored(frames[:2], 210, 5.0)
    assert (lane.stored, lane.stored_time, lane.waiting_bytes, list(lane.waiting)) == (21, 210, 1000, frames[2:])
    lane.is_free()
    lane.hurry = True
    lane.take()
    lane.is_stored(frames[2:], 310, 6.0)
    lane.is_free()
    assert not lane.hurry, "the hurry ends with what was waiting"


def test_a_failed_store_waits_longer_each_time_and_forgets_after_a_success() -> None:
    lane = Lane()
    lane.placed(frame(1, 11), 0.0)
    pauses = [lane.store_failed(100.0, 0.0) for _ in range(12)]
    assert 0.1 < pauses[0] < 1
    assert all(pause <= 15.0 for pause in pauses)
    assert pauses[-1] > 5
    assert lane.due_in(100.0, SEAL) == pytest.approx(pauses[-1])
    refused = {lane.store_failed(100.0, 30.0) for _ in range(8)}
    assert len(refused) == 8, "lanes that are refused together do not come back together"
    assert all(30.0 <= pause <= 37.5 for pause in refused)
    lane.is_stored(lane.take(), 1, 131.0)
    lane.placed(frame(11, 12), 131.0)
    lane.is_free()
    assert lane.due_in(132.0, SEAL) == 0


def test_restored_frames_go_on_where_the_vault_ends() -> None:
    lane = Lane(accepted=21, durable=21, stored=21)
    assert not lane.restored(frame(1, 11), 50.0)
    assert not lane.restored(frame(11, 21), 50.0)
    assert lane.restored(frame(15, 31), 50.0), "a segment that was cut anew may overlap"
    assert lane.restored(frame(31, 41), 50.0)
    with pytest.raises(Gap):
        lane.restored(frame(51, 61), 50.0)
    assert (lane.durable, lane.stored) == (41, 21)


def test_a_disk_that_hangs_shows_as_the_wait_for_the_spool() -> None:
    lane = Lane()
    lane.is_queued(1, 11, 100.0)
    lane.is_queued(11, 21, 104.0)
    assert lane.lags(110.0, SEAL) == (10.0, 0.0, 0.0)
    lane.placed(frame(1, 11), 112.0)
    assert lane.lags(112.0, SEAL) == (12.0, 0.0, 0.0), "what it took, although the next has waited for less"
    assert lane.lags(112.0, SEAL) == (8.0, 0.0, 0.0), "the oldest that waits now"
    lane.placed(frame(11, 21), 112.0)
    lane.lags(112.0, SEAL)
    assert lane.lags(112.0, SEAL)[0] == 0.0


def test_what_was_placed_before_it_was_noted_or_was_lost_does_not_wait_for_the_spool() -> None:
    lane = Lane()
    lane.placed(frame(1, 11), 100.0)
    lane.is_queued(1, 11, 99.0)
    assert lane.lags(200.0, SEAL)[0] == 0.0
    lane.is_queued(11, 21, 200.0)
    lane.is_lost(11)
    assert (lane.accepted, lane.lags(300.0, SEAL)[0]) == (11, 0.0)


def test_the_age_of_the_oldest_is_told_whoever_waits_and_however_much_was_stored_meanwhile() -> None:
    lane = Lane()
    for number, second in enumerate((100.0, 101.0, 102.0)):
        lane.placed(frame(10 * number + 1, 10 * number + 11, SEGMENT_BYTES), second)
    taken = lane.take()
    lane.is_stored(taken, 110, 130.0)
    lane.is_free()
    assert lane.lags(131.0, SEAL) == (0.0, SEAL, 30.0 - SEAL), "no uploader has come to it, and the store not failed"
    while lane.waiting:
        lane.is_stored(lane.take(), 110, 140.0)
    assert lane.lags(200.0, SEAL) == (0.0, 0.0, 0.0)
