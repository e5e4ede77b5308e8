"""What is proven, in doubt and discarded, against plain dictionaries."""

from __future__ import annotations

import itertools
import random

import pytest

from farshore.mobility.proving.coverage import ProofCoverage, Proven
from farshore.mobility.proving.spans import Spans, runs
from farshore.model.identifiers import DiskNumber, Epoch
from farshore.model.identifiers import Sequence as SequenceNumber
from farshore.model.position import Position

ONE, TWO = DiskNumber(0), DiskNumber(1)
HOUR = 3600 * 10**9
NOW = 10 * HOUR


def at(hours: float, sequence: int = 1) -> Proven:
    return Proven(int(hours * HOUR), 1, sequence)


@pytest.mark.parametrize("seed", range(5))
def test_spans_hold_what_a_dictionary_holds(seed: int) -> None:
    chance = random.Random(seed)
    spans: Spans[int] = Spans(lambda one, other: one if one == other else None)
    model: dict[int, int] = {}
    for _ in range(800):
        first = chance.randrange(200)
        end = first + chance.randrange(30)
        if chance.random() < 0.3:
            spans.cut(first, end)
            model = {chunk: value for chunk, value in model.items() if not first <= chunk < end}
        else:
            value = chance.randrange(3)
            spans.put(first, end, value)
            model.update(dict.fromkeys(range(first, end), value))
        held = list(spans)
        assert {chunk: one.value for one in held for chunk in range(one.first, one.end)} == model
        assert all(one.end <= other.first for one, other in itertools.pairwise(held))
        assert [chunk for low, high in spans.gaps(0, 260) for chunk in range(low, high)] == [
            chunk for chunk in range(260) if chunk not in model
        ]
    assert spans.chunks == len(model)


def test_memory_is_bounded_and_what_is_forgotten_is_not_proven():
    spans: Spans[int] = Spans(lambda one, other: None, most=100)
    for number in range(1000):
        spans.put(10 * number, 10 * number + 1 + number % 7, number)
    assert len(spans) <= 101
    assert list(runs([1, 2, 3, 5, 9, 10])) == [(1, 4), (5, 6), (9, 11)]


@pytest.mark.parametrize("seed", range(3))
def test_outwards_all_that_was_put_stays(seed: int) -> None:
    chance = random.Random(seed)
    spans: Spans[bool] = Spans(lambda one, other: one and other, most=50, outwards=True)
    model: set[int] = set()
    for _ in range(2000):
        first = chance.randrange(3000)
        end = first + 1 + chance.randrange(3)
        if chance.random() < 0.3:
            spans.cut(first, end)
            model -= set(range(first, end))
        else:
            spans.put(first, end, True)
            model |= set(range(first, end))
        held = list(spans)
        assert len(held) <= 50
        assert all(one.end < other.first for one, other in itertools.pairwise(held))
        assert model <= {chunk for one in held for chunk in range(one.first, one.end)}


def test_doubts_come_first_then_what_was_never_proven_then_the_oldest():
    coverage = ProofCoverage(None)
    coverage.fit({ONE: 10, TWO: 4})
    assert coverage.next(100, NOW) == [(ONE, 0, 10), (TWO, 0, 4)]
    coverage.prove(ONE, range(10), at(1))
    coverage.prove(TWO, range(3), at(2))
    coverage.doubt(ONE, 4, 6, "a heal")
    assert coverage.next(100, NOW) == [(ONE, 4, 6), (TWO, 3, 4), (ONE, 0, 4), (ONE, 6, 10), (TWO, 0, 3)]
    assert coverage.next(3, NOW) == [(ONE, 4, 6), (TWO, 3, 4)]
    assert coverage.cause(ONE, 5) == "a heal"
    coverage.postpone(ONE, [4], NOW + 50)
    assert coverage.next(1, NOW) == [(ONE, 5, 6)]
    assert coverage.next(1, NOW + 50) == [(ONE, 4, 5)]
    coverage.prove(ONE, [4, 5], at(3))
    assert (coverage.doubtful, coverage.cause(ONE, 5)) == (0, "")


def test_what_a_clock_that_was_ahead_has_left_is_proven_as_if_long_ago():
    coverage = ProofCoverage(None)
    coverage.fit({ONE: 10})
    coverage.prove(ONE, range(4), at(9000))
    coverage.prove(ONE, range(4, 10), at(1))
    assert coverage.next(4, NOW) == [(ONE, 0, 4)]
    standing = coverage.standing(0, NOW)[ONE]
    assert (standing.proven, standing.lately, standing.oldest, standing.newest) == (10, 6, HOUR, HOUR)
    coverage.prove(ONE, range(10), at(2))
    coverage.postpone(ONE, [4], 9000 * HOUR)
    assert coverage.next(99, NOW) == [(ONE, 0, 10)]


def test_a_doubt_ends_a_proof_and_a_difference_lasts_until_it_is_proven():
    coverage = ProofCoverage(None)
    coverage.fit({ONE: 10})
    coverage.prove(ONE, range(10), at(1, 7))
    coverage.prove(ONE, [3], at(5, 9))
    coverage.differs(ONE, 3, told=True)
    coverage.differs(ONE, 3, told=True)
    assert (coverage.differing, coverage.differences) == (1, 2)
    assert coverage.next(1, NOW) == [(ONE, 3, 4)]
    last = coverage.last(ONE, 2)
    assert last is not None
    assert (last.epoch, last.sequence) == (1, 7)
    standing = coverage.standing(2 * HOUR, NOW)[ONE]
    assert (standing.proven, standing.lately, standing.doubtful) == (9, 0, 1)
    coverage.prove(ONE, [3], at(6))
    assert (coverage.differing, coverage.differences) == (0, 2)
    standing = coverage.standing(2 * HOUR, NOW)[ONE]
    assert (standing.lately, standing.oldest, standing.newest) == (1, HOUR, 6 * HOUR)


def test_a_discarded_chunk_that_differs_is_no_difference_until_it_was_proven():
    coverage = ProofCoverage(None)
    coverage.fit({ONE: 10})
    coverage.discarded(ONE, 2, 4)
    assert coverage.is_discarded(ONE, 3)
    coverage.differs(ONE, 3, told=False)
    assert (coverage.differing, coverage.differences) == (0, 0)
    coverage.prove(ONE, [3], at(1))
    assert not coverage.is_discarded(ONE, 3)
    assert coverage.is_discarded(ONE, 2)


def test_a_doubt_leaves_the_points_from_before_the_last_proof_alone(tmp_path):
    coverage = ProofCoverage(tmp_path / "proven.json")
    coverage.fit({ONE: 10})
    coverage.prove(ONE, range(4), at(1, 5))
    coverage.doubt(ONE, 0, 6, "a heal")
    coverage.suspect(ONE, 2, NOW)
    coverage.save()
    for known in (coverage, ProofCoverage(tmp_path / "proven.json")):
        known.fit({ONE: 10})
        assert [known.last(ONE, chunk) for chunk in (2, 4)] == [Position(Epoch(1), SequenceNumber(5)), None]
        assert (known.cause(ONE, 2), known.standing(0, NOW)[ONE].proven) == ("a heal", 0)
        known.prove(ONE, [2], at(2, 8))
        assert known.last(ONE, 2) == Position(Epoch(1), SequenceNumber(8))
        known.forget()
        assert known.last(ONE, 3) is None
    coverage.suspect(ONE, 7, NOW)
    assert (coverage.doubtful, coverage.cause(ONE, 7)) == (1, "")  # the caller may know a newer cause


def test_it_outlives_a_restart_and_what_cannot_be_read_is_proven_again(tmp_path):
    path = tmp_path / "proven.json"
    coverage = ProofCoverage(path)
    coverage.fit({ONE: 10})
    coverage.prove(ONE, range(8), at(1, 5))
    coverage.doubt(ONE, 0, 2, "a heal")
    coverage.discarded(ONE, 6, 7)
    coverage.differs(ONE, 7, told=True)
    coverage.save()
    assert path.stat().st_mode & 0o777 == 0o600
    again = ProofCoverage(path)
    again.fit({ONE: 10})
    assert again.standing(0, NOW) == coverage.standing(0, NOW)
    assert again.next(99, NOW) == coverage.next(99, NOW)
    assert (again.differing, again.differences, again.cause(ONE, 1)) == (1, 1, "a heal")
    again.fit({ONE: 4})
    assert (again.differing, again.standing(0, NOW)[ONE].proven) == (0, 2)
    path.write_text('{"format": 1, "proven": 3}')
    assert ProofCoverage(path).differences == 0


def test_what_is_not_copied_is_not_proven_and_not_counted():
    coverage = ProofCoverage(None)
    coverage.fit({ONE: 10})
    coverage.prove(ONE, range(10), at(1))
    coverage.fit({ONE: 10}, {ONE: [(2, 4), (9, 20)]})
    standing = coverage.standing(0, NOW)[ONE]
    assert (standing.chunks, standing.proven) == (7, 7)
    assert coverage.everything() == [(ONE, 0, 2), (ONE, 4, 9)]
    coverage.doubt(ONE, 0, 10, "a resync")
    assert coverage.next(99, NOW) == [(ONE, 0, 2), (ONE, 4, 9)]
