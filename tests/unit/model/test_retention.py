"""Retention against what a storage account of Azure is meant for."""

from __future__ import annotations

import pytest

from farshore.model.errors import Refused
from farshore.model.policy import check_retention

HOUR, DAY = 3600, 24 * 3600


@pytest.mark.parametrize(
    ("hot_window", "kept", "premium", "said"),
    [
        (0, (0, 0, 0), True, ""),
        (DAY, (0, 0, 0), True, ""),
        (DAY, (48, 14, 0), True, "points are kept for 360"),
        (DAY, (0, 0, 1), True, "points are kept for 192"),
        (0, (24, 1, 0), True, ""),
        (3 * DAY, (48, 14, 8), False, ""),
        (3 * DAY + HOUR, (0, 0, 0), False, "for 73 hours; 72 are usual"),
    ],
)
def test_what_is_to_be_minded(hot_window: int, kept: tuple[int, int, int], premium: bool, said: str) -> None:
    found = check_retention(hot_window, *kept, premium=premium)
    assert said in found
    assert bool(found) == bool(said)


def test_any_second_of_more_than_a_day_is_refused_in_premium_storage() -> None:
    with pytest.raises(Refused, match="25 are asked for") as raised:
        check_retention(25 * HOUR, 0, 0, 0, premium=True)
    assert "--hot-window 24h" in raised.value.remedy
