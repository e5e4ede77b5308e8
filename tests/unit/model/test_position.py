"""Positions order by epoch, then sequence, and read back what they print."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farshore.model.errors import Malformed
from farshore.model.position import Position

positions = st.builds(Position, st.integers(1, 2**32 - 1), st.integers(0, 2**63))


@given(positions, positions)
def test_order_is_that_of_epoch_then_sequence(a: Position, b: Position):
    assert (a < b) == ((a.epoch, a.sequence) < (b.epoch, b.sequence))


@given(positions)
def test_text_reads_back(position: Position):
    assert Position.parse(str(position)) == position


@pytest.mark.parametrize("text", ["", "1", "1:", ":2", "a:b", "1:2:3", "-1:2", "1:²"])
def test_what_is_no_position_is_refused_with_the_form_it_should_have(text: str):
    with pytest.raises(Malformed, match="EPOCH:SEQUENCE"):
        Position.parse(text)
