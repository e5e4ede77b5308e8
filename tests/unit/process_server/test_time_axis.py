"""When a batch was captured by our clock, and what its times are called, whatever either wall clock does."""

from __future__ import annotations

import numpy as np
import pytest
from tests.unit.mobility.doubles import MACHINE, FakeClock

from farshore.formats.batch import Batch, Role
from farshore.formats.record import RECORD, RecordKind
from farshore.model.identifiers import Epoch, MachineId, Sequence
from farshore.process_server.streams.time_axis import Placed, TimeAxis, Timing

SECOND = 1_000_000_000
HOUR = 3600.0


class Pair:
    """A machine whose monotonic clock is 5,000 s behind ours, and this server."""

    def __init__(self) -> None:
        self.ours = FakeClock()
        self.ours.mono = 50_000.0
        self.axis = TimeAxis(self.ours)
        self.wrong = 0.0
        """Seconds by which the machine's wall clock is ahead of the truth,"""
        self.ours_wrong = 0.0
        """and ours."""
        self.way = 0.01

    def send(self, waited: float = 0.0, *, sent: bool = True, old_agent: bool = False) -> tuple[int, Placed]:
        """A batch that was captured a second after the last one; the true time of it, and what is made of it."""
        self.ours.move(1.0)
        true = self.ours.wall - int(self.ours_wrong * SECOND)
        captured = self.ours.mono - 5000.0
        label = true + int(self.wrong * SECOND)
        self.ours.move(waited + self.way)
        rows = np.zeros(1, RECORD)
        rows["kind"] = RecordKind.MARK
        batch = Batch(
            MachineId(MACHINE),
            Epoch(1),
            Role.JOURNAL,
            Sequence(1),
            label,
            rows,
            b"",
            0 if old_agent else int(captured * 1e9),
        )
        timing = Timing(self.ours.mono, int((self.ours.mono - self.way - 5000.0) * 1e9) if sent else 0)
        placed = self.axis.place(batch, timing)
        return label + placed.correction - true, placed

    def age(self, placed: Placed) -> float:
        assert placed.captured is not None
        return self.ours.mono - placed.captured

    def set_ours(self, seconds: float) -> None:
        self.ours_wrong += seconds
        self.ours.wall += int(seconds * SECOND)


@pytest.mark.parametrize("wrong", [0.0, 1.0, -5.0])
def test_clocks_that_agree_leave_the_machines_times_as_they_are(wrong: float) -> None:
    pair = Pair()
    pair.wrong = wrong
    off, placed = pair.send()
    assert (off, placed.correction) == (int(wrong * SECOND), 0)
    assert pair.age(placed) == pytest.approx(pair.way, abs=0.05)


@pytest.mark.parametrize("wrong", [2 * HOUR, -2 * HOUR, 30.0, -30.0])
def test_a_machine_whose_clock_is_wrong_gets_our_times(wrong: float) -> None:
    pair = Pair()
    pair.wrong = wrong
    for _ in range(5):
        off, placed = pair.send()
        assert abs(off) < 0.1 * SECOND
        assert pair.age(placed) == pytest.approx(pair.way, abs=0.05)


def test_ahead_for_eight_seconds_and_back() -> None:
    pair = Pair()
    for wrong in [0.0] * 3 + [2 * HOUR] * 8 + [0.0] * 3:
        pair.wrong = wrong
        off, placed = pair.send()
        assert abs(off) < 0.1 * SECOND
        assert (placed.correction == 0) == (wrong == 0.0)


def test_a_small_step_back_from_a_wrong_time_is_seen() -> None:
    pair = Pair()
    pair.wrong = 3.0
    pair.send()
    pair.wrong = 0.0  # within what a delay could look like: only the machine's own two clocks show it
    assert pair.send()[0] == 0


def test_what_waited_is_as_old_as_it_is() -> None:
    pair = Pair()
    pair.send()
    for waited in (0.5, 90.0, 2 * HOUR):
        pair.wrong = 0.0
        off, placed = pair.send(waited)
        assert off == 0
        assert pair.age(placed) == pytest.approx(waited + pair.way, abs=0.1)


def test_a_slow_way_makes_nothing_younger_than_the_fastest_lately() -> None:
    pair = Pair()
    pair.send()
    pair.way = 8.0
    _, placed = pair.send()
    assert pair.age(placed) == pytest.approx(8.0, abs=0.1)


@pytest.mark.parametrize("step", [2 * HOUR, -2 * HOUR])
def test_a_step_of_ours_changes_no_age(step: float) -> None:
    pair = Pair()
    pair.send()
    pair.set_ours(step)
    for _ in range(3):
        off, placed = pair.send()
        assert pair.age(placed) == pytest.approx(pair.way, abs=0.05)
        assert abs(off - step * SECOND) < 0.1 * SECOND, "times go on by this server's clock"


def test_an_age_that_is_unknown_makes_nothing_newer() -> None:
    pair = Pair()
    assert pair.send(sent=False)[1] == Placed(0, None)


@pytest.mark.parametrize(("wrong", "age"), [(-90.0, 90.0), (0.0, 0.0), (2 * HOUR, 0.0)])
def test_an_agent_that_does_not_say_is_judged_by_its_clock_and_never_newer_than_now(wrong: float, age: float) -> None:
    pair = Pair()
    pair.wrong = wrong
    off, placed = pair.send(old_agent=True)
    assert off == int(wrong * SECOND)
    assert pair.age(placed) == pytest.approx(age, abs=0.1)
