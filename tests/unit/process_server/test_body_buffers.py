"""Buffers for bodies are used again, the warmest first, and what is kept is bounded."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from farshore.process_server.listening.body_buffers import BodyBuffers

MIB = 1 << 20


def test_the_one_given_back_last_comes_first() -> None:
    buffers = BodyBuffers()
    with buffers.lend(MIB) as first, buffers.lend(MIB) as second:
        first[:], second[:] = b"1" * MIB, b"2" * MIB
    # The inner one went back first.
    with buffers.lend(5) as again:
        assert bytes(again) == b"11111"


@settings(deadline=None)  # it clears memory
@given(st.lists(st.integers(1, 40 * MIB), max_size=12))
def test_what_is_kept_is_bounded_and_long_enough(lengths: list[int]) -> None:
    buffers = BodyBuffers(limit=16 * MIB)
    for length in lengths:
        with buffers.lend(length) as one, buffers.lend(length) as other:
            assert len(one) == len(other) == length
            assert one.obj is not other.obj
        assert sum(map(len, buffers._idle)) == buffers._kept <= 16 * MIB
