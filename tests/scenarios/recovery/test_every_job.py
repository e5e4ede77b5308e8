"""The jobs of recovery beside the failover itself: killed, with an error that passes and with a cancel at each moment.

The gate takes every fourth moment of a kill, and every second one of an error or a cancel, the long set each one.
"""

from __future__ import annotations

import json
import shutil
import uuid
from pathlib import Path
from typing import Any

import pytest
from tests.file_site import FileSite, Fuse
from tests.scenarios.recovery import drill
from tests.scenarios.recovery.lives import PROCESSES, at_every_moment, live, live_to_the_end, outcome

from farshore.sites.port import FailoverId

STRIDE = 1 if drill.SOAK else 4
EARLIER, FAILOVER = (str(uuid.UUID(int=number)) for number in (0xE0, 0xF0))
GONE = ["", "absent", False]
AFTER = {
    "test-failover": ["running", "running", True],
    "cleanup": ["cleaned-up", "absent", False],
    "failover": ["running", "running", True],
    "failover-stop": ["running", "stopped", True],
    "failover-start": ["running", "running", True],
    "commit": ["committed", "running", True],
    "failover-delete": GONE,
}
"""The failover's state, its machine's condition, whether its disks stand."""


def every_other_job(home: Path, trouble: str) -> list[dict[str, Any]]:
    drill.prepare(home)
    process = PROCESSES.Process(target=drill.every_other_job, args=(home, trouble))
    process.start()
    process.join(600)
    assert process.exitcode == 0
    found = list(json.loads((home / "outcomes.json").read_text()))
    troubled = {one["kind"]: one["at"] for one in found if one["trouble"]}
    assert set(troubled) == set(AFTER) - {"failover"}, "each had its moments"
    assert troubled["failover-start"] >= 5
    return found


def test_a_passing_error_at_any_moment_of_any_job_costs_nothing(tmp_path: Path) -> None:
    for one in every_other_job(tmp_path, "error"):
        assert (one["job"], one["after"]) == ("succeeded", AFTER[one["kind"]]), one


def test_a_cancel_at_any_moment_of_any_job_ends_in_a_defined_state(tmp_path: Path) -> None:
    ends = set()
    for one in every_other_job(tmp_path, "cancel"):
        if one["kind"] == "test-failover" and one["refused"] == [""]:
            assert (one["job"], one["after"]) in (
                ("cancelled", ["cancelled", "absent", False]),
                ("succeeded", AFTER["test-failover"]),  # it had answered already
            ), one
            ends.add(one["job"])
            continue
        if one["trouble"]:
            assert one["refused"] == [
                "web1 is already up."
                if one["kind"] == "test-failover"
                else "This job cannot be cancelled once it has begun."
            ], one
        assert (one["job"], one["after"]) == ("succeeded", AFTER[one["kind"]]), one
    assert "cancelled" in ends


@pytest.fixture(scope="module")
def homes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """By kind of job: an installation that it may begin in."""
    home = tmp_path_factory.mktemp("jobs")
    drill.prepare(home)
    found: dict[str, Path] = {}

    def before(*kinds: str) -> None:
        for kind in kinds:
            found[kind] = Path(shutil.copytree(home, tmp_path_factory.mktemp(kind) / "home"))

    def done(kind: str, failover: str) -> None:
        assert live(drill.Task(home, kind, failover, f"{kind}-{failover}")) == 0
        assert outcome(home)["job"]["state"] == "succeeded"

    for failover in (EARLIER, FAILOVER):
        drill.request(home, failover, f"failover-{failover}", "failover")
        done("failover", failover)
    before("failover-stop", "commit")
    done("failover-stop", FAILOVER)
    before("failover-start")
    done("failover-start", FAILOVER)
    done("commit", FAILOVER)
    before("failover-delete")
    return found


@pytest.mark.parametrize("kind", ["failover-stop", "failover-start", "commit", "failover-delete"])
def test_a_job_killed_at_any_moment_is_done_by_the_next_server(
    homes: dict[str, Path], tmp_path: Path, kind: str
) -> None:
    for home, at in at_every_moment(homes[kind], tmp_path, least=4, stride=STRIDE):
        live_to_the_end(drill.Task(home, kind, FAILOVER, "the-job", die_at=at))
        assert outcome(home)["job"]["state"] == "succeeded"
        assert drill.left_of(home, FAILOVER) == AFTER[kind]
        if kind == "commit":
            assert drill.left_of(home, EARLIER) == AFTER["cleanup"]
        machine = FileSite(home / "site", Fuse(0)).read(FailoverId(FAILOVER))
        assert kind != "failover-start" or (machine is not None and machine["starts"] == 2)


def test_what_has_answered_is_concluded_however_long_the_catalog_is_away(tmp_path: Path) -> None:
    drill.prepare(tmp_path)
    drill.request(tmp_path, FAILOVER, "the-job", "failover")
    process = PROCESSES.Process(
        target=drill.concluded_at_last, args=(drill.Task(tmp_path, "failover", FAILOVER, "the-job"), 4)
    )
    process.start()
    process.join(300)
    assert process.exitcode == 0
    assert outcome(tmp_path)["job"]["state"] == "succeeded"
    assert drill.left_of(tmp_path, FAILOVER) == AFTER["failover"]
