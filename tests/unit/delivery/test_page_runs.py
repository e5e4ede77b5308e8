"""What is sent of a piece of a disk, and what a blob holds."""

from __future__ import annotations

import itertools
import random

from hypothesis import given
from hypothesis import strategies as st

from farshore.delivery.page_runs import SPARE, Held, runs_to_send

BLOCK = 4096
LONGEST = 8 * BLOCK


def piece(pattern: list[int], tail: int) -> bytes:
    """Blocks of zeroes (0) and of data, and a short one."""
    made = b"".join(bytes([value]) * BLOCK for value in pattern)
    return made + b"t" * tail


@given(st.lists(st.integers(0, 2), max_size=40), st.sampled_from([0, 512, 3584]))
def test_all_data_is_sent_and_hardly_anything_else(pattern: list[int], tail: int) -> None:
    data = piece(pattern, tail)
    runs = runs_to_send(memoryview(data), LONGEST)
    sent = bytearray(len(data))
    last = 0
    for start, end in runs:
        assert last <= start < end <= len(data)
        assert end - start <= LONGEST
        assert start % BLOCK == 0
        sent[start:end] = data[start:end]
        last = end
    assert bytes(sent) == data
    used = sum(BLOCK for value in pattern if value) + tail
    assert sum(end - start for start, end in runs) <= used + used // SPARE


def test_the_shortest_gaps_are_closed() -> None:
    data = piece([1] * 40 + [0] * 2 + [1] * 40 + [0] + [1] * 2, 0)
    runs = runs_to_send(memoryview(data), 1 << 20)
    assert runs == [(0, 40 * BLOCK), (42 * BLOCK, 85 * BLOCK)]


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(1, 9)), max_size=12), st.integers(0, 60), st.integers(1, 30))
def test_what_is_held_is_counted_once(pairs: list[tuple[int, int]], offset: int, length: int) -> None:
    ranges = [(start, start + count) for start, count in pairs]
    random.Random(1).shuffle(ranges)
    held = Held(ranges)
    truth = {place for start, end in ranges for place in range(start, end)}
    window = set(range(offset, offset + length))
    assert held.count(offset, length) == len(truth & window)
    found = held.ranges(offset, length)
    assert {place for start, end in found for place in range(start, end)} == truth & window
    assert all(one[1] < other[0] for one, other in itertools.pairwise(found)), "merged"
