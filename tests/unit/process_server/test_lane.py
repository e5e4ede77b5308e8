"""The marks of a lane: what follows what, what is due when, what a failed store costs."""

from __future__ import annotations

import itertools

import pytest

from farshore.formats.batch import Role
from farshore.formats.spool import FrameFlag, FrameHeader, FrameKind
from farshore.model.cadence import IDLE_SEAL, LONGEST_SEAL, cadence
from farshore.model.errors import Gap
from farshore.model.identifiers import Epoch, MachineId, Sequence
from farshore.process_server.spool.file import FrameReference
from farshore.process_server.streams.lane import SEGMENT_BYTES, Lane

MACHINE = MachineId("00000000-0000-4000-8000-000000000001")
SEAL = 0.5


def frame(first: int, end: int, size: int = 1000, flags: FrameFlag = FrameFlag.NONE) -> FrameReference:
    header = FrameHeader(
        FrameKind.BATCH, MACHINE, Epoch(1), Role.JOURNAL, Sequence(first), Sequence(end), end * 10, flags
    )
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
    lane.take(0.0)
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
    assert [one.header.first_sequence for one in lane.take(0.0)] == [1, 2]
    large = Lane()
    large.placed(frame(1, 2, SEGMENT_BYTES * 3), 0.0)
    large.placed(frame(2, 3), 0.0)
    assert len(large.take(0.0)) == 1


def test_marks_follow_what_was_stored() -> None:
    lane = Lane()
    frames = [frame(1, 11), frame(11, 21), frame(21, 31)]
    for one in frames:
        lane.placed(one, 0.0)
    assert (lane.accepted, lane.durable, lane.stored) == (31, 31, 1)
    lane.take(0.0)
    lane.is_stored(frames[:2], 210, 5.0)
    assert (lane.stored, lane.stored_time, lane.waiting_bytes, list(lane.waiting)) == (21, 210, 1000, frames[2:])
    lane.is_free()
    lane.hurry = True
    lane.take(0.0)
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
    lane.is_stored(lane.take(0.0), 1, 131.0)
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
    taken = lane.take(0.0)
    lane.is_stored(taken, 110, 130.0)
    lane.is_free()
    assert lane.lags(131.0, SEAL) == (0.0, SEAL, 30.0 - SEAL), "no uploader has come to it, and the store not failed"
    while lane.waiting:
        lane.is_stored(lane.take(0.0), 110, 140.0)
    assert lane.lags(200.0, SEAL) == (0.0, 0.0, 0.0)


def stored(lane: Lane, now: float) -> None:
    lane.is_stored(lane.take(now), 1, now)
    lane.is_free()


def test_by_policy_what_follows_a_silence_is_stored_at_once_and_what_follows_that_waits() -> None:
    lane = Lane(cadence=cadence(1.0))
    lane.placed(frame(1, 2), 100.0)
    assert lane.due_in(100.0) == 0
    stored(lane, 100.0)
    lane.placed(frame(2, 3), 100.1)
    assert lane.due_in(100.1) == pytest.approx(cadence(1.0).seal - 0.1)
    lane.cadence = cadence(60.0)
    assert lane.due_in(100.1) == pytest.approx(LONGEST_SEAL - 0.1)
    lane.placed(frame(3, 4, flags=FrameFlag.POINTS), 100.2)
    assert lane.due_in(100.2) == 0, "somebody waits for a point"


def test_of_a_machine_that_writes_nothing_a_mark_is_stored_every_ten_seconds_and_a_write_at_once() -> None:
    lane = Lane()
    segments: list[float] = []
    for tick in range(60):
        now = 1000.0 + 5.24 * tick
        lane.placed(frame(tick + 1, tick + 2), now, now, writes=False)
        assert lane.known_captured == (now if segments else None)
        if lane.due_in(now) == 0:
            stored(lane, now)
            segments.append(now)
        else:
            assert lane.lags(now) == (0.0, 0.0, 0.0), "nothing is lost without it, so it is not late"
    assert [after - before for before, after in itertools.pairwise(segments)] == [pytest.approx(10.48)] * 29
    lane.placed(frame(61, 62), 1320.5, 1320.4)
    assert lane.due_in(1320.5) == 0
    assert lane.known_captured == pytest.approx(1000.0 + 5.24 * 59), "what is written is not in the vault yet"


@pytest.mark.parametrize("rpo", [0.5, 1, 2, 3, 4, 5, 60, 900])
def test_whatever_the_policy_asks_an_idle_machine_costs_six_segments_a_minute(rpo: float) -> None:
    lane = Lane(cadence=cadence(rpo))
    segments = 0
    number, now = 1, 0.0
    while now < 3600:
        now += lane.cadence.mark + 0.02
        lane.placed(frame(number, number + 1), now, now, writes=False)
        number += 1
        if lane.due_in(now) == 0:
            stored(lane, now)
            segments += 1
    assert 330 <= segments <= 360


def test_a_mark_that_nothing_follows_is_stored_all_the_same() -> None:
    lane = Lane()
    lane.placed(frame(1, 2), 100.0, writes=False)
    stored(lane, 100.0)
    lane.placed(frame(2, 3), 105.0, writes=False)
    assert lane.due_in(105.0) == pytest.approx(IDLE_SEAL)
    assert lane.due_in(105.0 + IDLE_SEAL) == 0


def test_unknown_moments_make_nothing_newer() -> None:
    lane = Lane()
    lane.placed(frame(1, 2), 100.0, 99.0)
    stored(lane, 100.0)
    lane.placed(frame(2, 3), 105.0, None, writes=False)
    assert lane.known_captured == 99.0
    lane.placed(frame(3, 4), 106.0, 105.9, writes=True)
    lane.placed(frame(4, 5), 107.0, 106.9, writes=False)
    assert lane.known_captured == 99.0, "marks behind a write say nothing of what is stored"
