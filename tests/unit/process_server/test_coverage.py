"""A copy is whole when every chunk of every disk was told, and not before."""

from __future__ import annotations

import numpy as np
import pytest

from farshore.model.errors import Malformed
from farshore.model.identifiers import CHUNK, DiskNumber
from farshore.process_server.copying.coverage import Coverage

ONE, TWO = DiskNumber(0), DiskNumber(3)


@pytest.fixture
def coverage() -> Coverage:
    return Coverage([(ONE, 10 * CHUNK), (TWO, 2 * CHUNK + 512)])


def test_what_is_missing_is_said(coverage: Coverage) -> None:
    assert "10 of 10 chunks of disk 0, the first at 0" in coverage.missing()
    coverage.add_run(ONE, 0, np.ones(4, np.bool_))
    coverage.add_run(ONE, 4, np.array([True, False, True, True, True, True]))
    assert "1 of 10 chunks of disk 0, the first at 5" in coverage.missing()
    coverage.add(ONE, np.array([5]))
    coverage.add(TWO, np.array([0, 1, 2]))
    assert coverage.missing() == ""
    assert coverage.told == 13


def test_a_chunk_told_twice_counts_once_and_a_miss_takes_nothing_back(coverage: Coverage) -> None:
    coverage.add(ONE, np.array([7, 7]))
    coverage.add_run(ONE, 7, np.array([False]))
    assert coverage.told == 1


@pytest.mark.parametrize("chunk", [-1, 10, 1 << 40])
def test_chunks_outside_the_disk_are_refused(coverage: Coverage, chunk: int) -> None:
    with pytest.raises(Malformed):
        coverage.add(ONE, np.array([chunk], np.int64))


def test_runs_outside_the_disk_and_unknown_disks_are_refused(coverage: Coverage) -> None:
    with pytest.raises(Malformed):
        coverage.add_run(ONE, 8, np.ones(3, np.bool_))
    with pytest.raises(Malformed):
        coverage.add_run(DiskNumber(1), 0, np.ones(1, np.bool_))


def test_no_disk_is_whole_at_once() -> None:
    assert Coverage([]).missing() == ""


def test_inherited_chunks_need_not_be_told() -> None:
    coverage = Coverage([(ONE, 10 * CHUNK), (TWO, 2 * CHUNK)], {ONE: 8})
    assert coverage.told == 0
    assert coverage.ranges_missing(10) == [(ONE, 8, 2), (TWO, 0, 2)]
    coverage.add(ONE, np.array([8, 9]))
    coverage.add_run(TWO, 0, np.ones(2, np.bool_))
    assert coverage.missing() == ""
    assert coverage.told == 4


def test_missing_ranges_are_told_a_few_at_a_time(coverage: Coverage) -> None:
    coverage.add(ONE, np.array([0, 3, 4, 9]))
    assert coverage.ranges_missing(10) == [(ONE, 1, 2), (ONE, 5, 4), (TWO, 0, 3)]
    assert coverage.ranges_missing(2) == [(ONE, 1, 2), (ONE, 5, 4)]
