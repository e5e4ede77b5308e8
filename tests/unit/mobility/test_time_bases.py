"""Time bases: what the agent's journal calls its records while somebody sets the machine's clock."""

from __future__ import annotations

from typing import List, Tuple

import pytest
from tests.unit.mobility.doubles import MACHINE, FakeClock

from farshore.formats.batch import Batch, decode
from farshore.mobility.stream.batches import EncodedBatch, Journal
from farshore.mobility.stream.records import mark_piece
from farshore.model.clock_steps import ClockSteps
from farshore.model.identifiers import Epoch

SECOND = 1_000_000_000


class Machine:
    def __init__(self) -> None:
        self.clock = FakeClock()
        self.journal = Journal(MACHINE, Epoch(1), self.clock)

    def batch(self, after: float = 1.0) -> Tuple[EncodedBatch, Batch]:
        self.clock.move(after)
        made = self.journal.batch(mark_piece(int(self.clock.monotonic() * 1e9)))
        return made, decode(b"".join(bytes(buffer) for buffer in made.buffers))

    def times(self, count: int) -> List[int]:
        return [self.batch()[0].time for _ in range(count)]


@pytest.mark.parametrize("step", [7200, -7200, 1, -1])
def test_a_step_begins_a_time_base_by_the_new_clock(step: int) -> None:
    machine = Machine()
    machine.times(3)
    machine.clock.wall += step * SECOND
    made, _ = machine.batch()
    assert made.time == machine.clock.wall
    assert machine.times(2)[-1] == machine.clock.wall


def test_back_and_forth_is_seen_in_every_record() -> None:
    """Two hours ahead for eight seconds, and back."""
    machine = Machine()
    true = machine.clock.wall
    machine.times(2)
    machine.clock.wall += 7200 * SECOND
    ahead = machine.times(8)
    machine.clock.wall -= 7200 * SECOND
    after = machine.times(2)
    assert [time - true for time in ahead] == [(7200 + 3 + one) * SECOND for one in range(8)]
    assert [time - true for time in after] == [11 * SECOND, 12 * SECOND]


def test_times_do_not_fall_for_less_than_a_step() -> None:
    machine = Machine()
    before = machine.batch()[0].time
    machine.clock.wall -= SECOND // 4
    assert machine.batch(after=0.1)[0].time == before
    assert machine.batch(after=1.0)[0].time > before


def test_a_batch_carries_when_it_was_captured_whatever_the_wall_clock_says() -> None:
    machine = Machine()
    for step in (0, 7200, -7200, -3600):
        machine.clock.wall += step * SECOND
        made, batch = machine.batch()
        assert batch.captured == made.captured
        assert abs(batch.captured - machine.clock.monotonic() * 1e9) < 1000


def test_steps_are_counted_and_measured() -> None:
    clock = FakeClock()
    steps = ClockSteps(clock)
    clock.move(100)
    assert (steps.look(), steps.last) == (0, None)
    for number, by in enumerate((7200, -7200, 1), 1):
        clock.wall += by * SECOND
        assert abs(steps.look() - by * SECOND) < 1000
        clock.move(5)
        assert steps.look() == 0
        assert steps.last is not None
        assert (steps.last.number, steps.last.seen) == (number, clock.monotonic() - 5)
