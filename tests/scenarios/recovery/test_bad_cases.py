"""Each bad case of a failover ends in a clear state, with evidence and a way back."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tests.scenarios.recovery import bad_cases
from tests.scenarios.recovery.lives import PROCESSES

SAID = {
    "hypervisor refuses": "No room",
    "disk full": "No space",
    "network missing": "network lan",
    "name taken": "called web1",
    "panic": "no root disk",
    "port in use": "is taken",
    "vault gone": "",
}
FAR_SIDE_EMPTY = ["absent", False]


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    home = tmp_path_factory.mktemp("home")
    process = PROCESSES.Process(target=bad_cases.meet_them_all, args=(home,))
    process.start()
    process.join(300)
    assert process.exitcode == 0
    return dict(json.loads((home / "outcomes.json").read_text()))


@pytest.mark.parametrize("case", sorted(SAID))
def test_a_failover_that_fails_is_undone_and_says_why(outcomes: dict[str, Any], case: str) -> None:
    assert set(SAID) == set(bad_cases.CASES)
    found = outcomes[case]
    assert (found["job"], found["state"], found["machine"]) == ("failed", "failed", "protected"), found
    assert found["left"] == FAR_SIDE_EMPTY
    assert SAID[case] in found["error"]
    assert found["message"]
    assert found["remedy"]


def test_of_a_guest_with_a_panic_its_words_are_kept(outcomes: dict[str, Any]) -> None:
    assert outcomes["panic"]["console"] == bad_cases.PANIC
    assert "no root disk" in outcomes["panic"]["evidence"]["diagnosis"]


def test_a_guest_that_answers_nothing_stays_up_and_is_said_to_have_failed_its_checks(outcomes: dict[str, Any]) -> None:
    found = outcomes["answers nothing"]
    assert (found["job"], found["state"], found["machine"]) == ("succeeded", "running", "failed-over")
    (check,) = found["evidence"]["checks"]
    assert (check["passed"], check["detail"]) == (False, "port 22 does not answer")
    assert found["evidence"]["rto_seconds"] is None


def test_after_all_of_them_the_next_failover_comes_up(outcomes: dict[str, Any]) -> None:
    found = outcomes["the way back"]
    assert (found["job"], found["state"], found["machine"]) == ("succeeded", "running", "failed-over"), found
