"""What a policy's RPO leaves to each stage."""

from __future__ import annotations

import pytest

from farshore.model.cadence import IDLE_SEAL, LONGEST_CUT, LONGEST_SEAL, cadence
from farshore.model.policy import asked_rpo


@pytest.mark.parametrize("rpo", [1, 2, 3, 4, 5, 6, 10, 60, 900, 86400])
def test_both_waits_together_leave_a_third_of_the_rpo_to_the_way_and_the_store(rpo: int) -> None:
    found = cadence(rpo)
    assert found.cut + found.seal <= 0.67 * rpo
    assert found.cut <= LONGEST_CUT
    assert found.seal <= LONGEST_SEAL
    assert found.mark <= max(1, 1.04 * rpo)
    assert IDLE_SEAL % found.mark < 0.5


def test_a_policy_never_asks_for_points_so_rare_that_they_raise_its_alert() -> None:
    assert asked_rpo(5, 900) == 5
    assert asked_rpo(300, 30) == 30
