"""Bitmap areas and dirty ranges, against the plainest model: a set of block numbers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from farshore.mobility.capture.bitmap import (
    NO_RANGES,
    Area,
    count_blocks,
    dirty_ranges,
    place,
    shift_for,
    slot_words_for,
    union,
    words_for,
)
from farshore.model.errors import Refused

TIB = 1 << 31  # sectors


def as_set(ranges) -> set[int]:
    return {block for start, count in ranges.tolist() for block in range(start, start + count)}


def assert_canonical(ranges) -> None:
    assert (ranges[:, 1] > 0).all()
    assert (ranges[1:, 0] > ranges[:-1, 0] + ranges[:-1, 1]).all(), "ranges touch or are out of order"


@given(st.sets(st.integers(0, 64 * 20 - 1)), st.integers(3, 6), st.integers(1, 64 * 20 * 64))
def test_dirty_ranges_are_the_set_bits(bits, shift, sectors):
    words = np.zeros(20, np.uint64)
    for bit in bits:
        words[bit // 64] |= np.uint64(1 << (bit % 64))
    ranges = dirty_ranges(words, shift, sectors)
    assert_canonical(ranges)
    scale = 1 << (shift - 3)
    blocks = -(-sectors // 8)
    expected = {b * scale + i for b in bits for i in range(scale)}
    assert as_set(ranges) == {b for b in expected if b < blocks}


def test_ranges_join_where_pieces_of_the_bitmap_meet():
    words = np.zeros(1 << 17, np.uint64)
    words[(1 << 16) - 1] = np.uint64(1 << 63)
    words[1 << 16] = np.uint64(1)
    middle = (1 << 16) * 64
    assert dirty_ranges(words, 3, 1 << 40).tolist() == [[middle - 1, 2]]


@given(st.lists(st.lists(st.tuples(st.integers(0, 200), st.integers(1, 30)), max_size=6), max_size=4))
def test_union_is_the_union(several):
    ranges = [np.array(sorted(one), np.int64).reshape(-1, 2) for one in several]
    merged = union(ranges, 210)
    assert_canonical(merged)
    assert as_set(merged) == {b for one in ranges for b in as_set(one) if b < 210}
    assert count_blocks(merged) == len(as_set(merged))


def test_union_of_nothing():
    assert union([], 10) is NO_RANGES
    assert union([NO_RANGES, NO_RANGES], 10) is NO_RANGES


@given(
    st.lists(st.integers(1, 4 * TIB), min_size=1, max_size=64),
    st.lists(st.integers(1, 4 * TIB), max_size=8),
)
def test_areas_never_overlap_and_cover_their_disks(sizes, later):
    slot_words = slot_words_for(sizes, 1 << 21)
    shift = shift_for(sizes, slot_words)
    assert shift == 3 or sum(sizes) > 64 * 8 * (1 << 21) // 4
    taken: list[Area] = []
    for number, sectors in enumerate([*sizes, *later]):
        area = place(sectors, taken, slot_words, shift if number < len(sizes) else 3)
        assert area.words << area.shift << 6 >= sectors
        assert area.first_word + area.words <= slot_words
        assert all(
            area.first_word >= other.first_word + other.words or other.first_word >= area.first_word + area.words
            for other in taken
        )
        taken.append(area)


def test_bits_are_blocks_as_long_as_there_is_room():
    assert place(TIB // 8, [], 1 << 21).shift == 3
    assert place(8 * TIB, [], 1 << 21).shift > 3


def test_a_full_slot_is_told():
    with pytest.raises(Refused):
        place(64, [Area(0, words_for(64 * 8 * 4, 3), 3)], 4)
