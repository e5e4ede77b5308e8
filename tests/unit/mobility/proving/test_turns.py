"""Chunks that cannot be settled: at growing intervals, and never twice in a row while others are due."""

from __future__ import annotations

from typing import List

from tests.unit.mobility.doubles import FakeClock

from farshore.mobility.proving.turns import LONGEST_PAUSE, MOST, ProofTurns
from farshore.model.identifiers import DiskNumber

ONE = DiskNumber(0)
HOT = [(ONE, 1), (ONE, 2)]


def test_the_pause_after_an_attempt_in_vain_doubles_up_to_a_minute() -> None:
    clock = FakeClock()
    turns = ProofTurns(clock)
    pauses: List[float] = []
    for _ in range(9):
        began = clock.monotonic()
        while not turns.take(HOT[:1], others=False):
            clock.move(0.5)
        pauses.append(clock.monotonic() - began)
        turns.end(HOT[:1], HOT[:1])
    assert pauses == [0, 1, 2, 4, 8, 16, 32, LONGEST_PAUSE, LONGEST_PAUSE]
    clock.move(LONGEST_PAUSE)
    turns.take(HOT[:1], others=False)
    turns.end(HOT[:1], [])
    assert turns.take(HOT[:1], others=False) == HOT[:1], "it was settled: now it is another trouble"


def test_others_that_are_due_come_between_two_attempts_and_not_before_what_is_new() -> None:
    """Also where so many are tried again that one of them could always be."""
    clock = FakeClock()
    turns = ProofTurns(clock)
    assert turns.take(HOT, others=True) == HOT
    turns.end(HOT, HOT)
    clock.move(1)
    taken = []
    for _ in range(4):
        taken.append(turns.take(HOT, others=True))
        turns.end(taken[-1], HOT)
        clock.move(LONGEST_PAUSE)
    assert taken == [HOT, [], HOT, []]
    clock.move(LONGEST_PAUSE)
    assert turns.take(HOT, others=True) == HOT
    turns.end(HOT, HOT)
    assert turns.take([*HOT, (ONE, 3)], others=True) == [(ONE, 3)]
    turns.end([(ONE, 3)], [])
    clock.move(LONGEST_PAUSE)
    assert turns.take(HOT, others=False) == HOT, "others are not due"


def test_a_turn_is_bounded() -> None:
    turns = ProofTurns(FakeClock())
    assert len(turns.take([(ONE, chunk) for chunk in range(MOST + 5)], others=True)) == MOST
