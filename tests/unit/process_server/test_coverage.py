"""A copy is whole when every chunk of every disk was told, and not before."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from farshore.model.errors import Malformed
from farshore.model.identifiers import CHUNK, DiskNumber
from farshore.process_server.copying.coverage import PAGE, CopyCoverage

ONE, TWO = DiskNumber(0), DiskNumber(3)


@pytest.fixture
def coverage() -> CopyCoverage:
    return CopyCoverage([(ONE, 10 * CHUNK), (TWO, 2 * CHUNK + 512)])


def test_what_is_missing_is_said(coverage: CopyCoverage) -> None:
    assert "10 of 10 chunks of disk 0, the first at 0" in coverage.missing()
    coverage.add_run(ONE, 0, np.ones(4, np.bool_))
    coverage.add_run(ONE, 4, np.array([True, False, True, True, True, True]))
    assert "1 of 10 chunks of disk 0, the first at 5" in coverage.missing()
    coverage.add(ONE, np.array([5]))
    coverage.add(TWO, np.array([0, 1, 2]))
    assert coverage.missing() == ""
    assert coverage.told == 13


def test_a_chunk_told_twice_counts_once_and_a_miss_takes_nothing_back(coverage: CopyCoverage) -> None:
    coverage.add(ONE, np.array([7, 7]))
    coverage.add_run(ONE, 7, np.array([False]))
    assert coverage.told == 1


@pytest.mark.parametrize("chunk", [-1, 10, 1 << 40])
def test_chunks_outside_the_disk_are_refused(coverage: CopyCoverage, chunk: int) -> None:
    with pytest.raises(Malformed):
        coverage.add(ONE, np.array([chunk], np.int64))


def test_runs_outside_the_disk_and_unknown_disks_are_refused(coverage: CopyCoverage) -> None:
    with pytest.raises(Malformed):
        coverage.add_run(ONE, 8, np.ones(3, np.bool_))
    with pytest.raises(Malformed):
        coverage.add_run(DiskNumber(1), 0, np.ones(1, np.bool_))


def test_no_disk_is_whole_at_once() -> None:
    assert CopyCoverage([]).missing() == ""


def test_inherited_chunks_need_not_be_told() -> None:
    coverage = CopyCoverage([(ONE, 10 * CHUNK), (TWO, 2 * CHUNK)], {ONE: 8})
    assert coverage.told == 0
    assert coverage.ranges_missing(10) == [(ONE, 8, 2), (TWO, 0, 2)]
    coverage.add(ONE, np.array([8, 9]))
    coverage.add_run(TWO, 0, np.ones(2, np.bool_))
    assert coverage.missing() == ""
    assert coverage.told == 4


def test_missing_ranges_are_told_a_few_at_a_time(coverage: CopyCoverage) -> None:
    coverage.add(ONE, np.array([0, 3, 4, 9]))
    assert coverage.ranges_missing(10) == [(ONE, 1, 2), (ONE, 5, 4), (TWO, 0, 3)]
    assert coverage.ranges_missing(2) == [(ONE, 1, 2), (ONE, 5, 4)]


CHUNKS = 2 * PAGE + 100
RUNS = st.tuples(st.integers(0, CHUNKS - 1), st.integers(1, PAGE + 50))


@given(st.integers(0, CHUNKS), st.lists(RUNS, max_size=12), st.integers(0, 2**32))
def test_over_pages_it_is_what_one_flag_a_chunk_would_be(
    inherited: int, runs: list[tuple[int, int]], seed: int
) -> None:
    random = np.random.default_rng(seed)
    coverage = CopyCoverage([(ONE, CHUNKS * CHUNK - 512)], {ONE: inherited})
    flags = np.zeros(CHUNKS, np.bool_)
    flags[:inherited] = True
    for number, (first, length) in enumerate(runs):
        end = min(CHUNKS, first + length)
        told = random.random(end - first) < (1.0 if number % 2 else 0.9)
        before = coverage.told
        if number % 3 == 2:
            coverage.add(ONE, first + np.flatnonzero(told))
        else:
            assert coverage.add_run(ONE, first, told) == (int(np.count_nonzero(told & ~flags[first:end])) > 0)
        flags[first:end] |= told
        assert coverage.told == int(np.count_nonzero(flags[inherited:])) >= before
    edges = np.flatnonzero(np.diff(flags.astype(np.int8), prepend=1, append=1)).reshape(-1, 2)
    expected = [(ONE, first, end - first) for first, end in edges.tolist()]
    assert coverage.ranges_missing(1 << 30) == expected
    assert coverage.ranges_missing(2) == expected[:2]
    assert (coverage.missing() == "") == flags.all()
    if not flags.all():
        first = int(np.argmin(flags))
        assert f"{np.count_nonzero(~flags)} of {CHUNKS} chunks of disk 0, the first at {first}" in coverage.missing()


def test_memory_follows_what_was_told_and_not_what_was_declared() -> None:
    size = 32 << 40
    tracemalloc.start()
    try:
        coverage = CopyCoverage([(ONE, size), (TWO, (1 << 63) - 1)], {TWO: 1 << 46})
        coverage.add_run(ONE, 1000, np.ones(10, np.bool_))
        coverage.add(ONE, np.array([size // CHUNK - 1]))
        assert coverage.ranges_missing(1000)[:3] == [
            (ONE, 0, 1000),
            (ONE, 1010, size // CHUNK - 1011),
            (TWO, 1 << 46, (1 << 47) - (1 << 46)),
        ]
        assert "disk 0" in coverage.missing()
        assert coverage.told == 11
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1 << 20
