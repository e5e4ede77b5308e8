"""Two sides agree on the newest version that both speak, or are told which of them is too old."""

from __future__ import annotations

import pytest

from farshore.formats.stream_protocol import SUPPORTED, choose
from farshore.model.errors import Unsupported


def test_the_newest_that_both_speak_is_chosen() -> None:
    assert choose(SUPPORTED) == max(SUPPORTED)
    assert choose([1, 2, 3], [2, 1]) == 2
    assert choose([7, 1], [1]) == 1


@pytest.mark.parametrize(
    ("offered", "own", "who"),
    [([1], [3, 2], "machine upgrade"), ([4, 3], [2, 1], "process server"), ([], [1], "machine upgrade")],
)
def test_whoever_is_older_is_to_be_upgraded(offered: list[int], own: list[int], who: str) -> None:
    with pytest.raises(Unsupported) as told:
        choose(offered, own)
    assert who in told.value.remedy
