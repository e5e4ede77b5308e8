"""A job with children, killed around the engine's own commits: the next server finishes it, and starts no child twice.

The gate takes every seventh moment, the long set each one.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.unit.configuration_server import family

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["tests.unit.configuration_server.family"])
JOB = "11111111-0000-4000-8000-000000000000"
STRIDE = 1 if os.environ.get("FARSHORE_SOAK") else 7
LEAVES = [{"subject": "a"}, {"subject": "b", "fail": True}, {"subject": "c"}]


def live(folder: Path, request: dict[str, Any], die_at: int, cancel: str = "") -> int | None:
    process = PROCESSES.Process(target=family.live, args=(folder, JOB, request, die_at, cancel))
    process.start()
    process.join(900)
    return process.exitcode


def lives(folder: Path, request: dict[str, Any], cancel: str = "") -> Iterator[tuple[dict[str, Any], list[str]]]:
    """For every STRIDE-th moment: what became of a job that was killed there and finished by the next server."""
    moments, at = 1, 0
    while at <= moments:
        home = folder / str(at)
        home.mkdir()
        killed = live(home, request, at, cancel) == -signal.SIGKILL
        if killed:
            assert live(home, request, 0, cancel) == 0
        outcome = dict(json.loads((home / "outcome.json").read_text()))
        if not at:
            assert not killed
            moments = outcome["moments"]
            assert moments > 20
        yield outcome, (home / "log").read_text().splitlines()
        at += STRIDE


def test_a_job_with_children_killed_anywhere_ends_as_if_it_had_not_been(tmp_path: Path) -> None:
    request = {"subject": "x", "leaves": LEAVES, "extra": True, "at_once": 2}
    for outcome, log in lives(tmp_path, request):
        job = outcome["job"]
        assert (job["state"], job["result"]["states"]) == ("succeeded", ["succeeded", "failed", "succeeded"]), job
        assert job["result"]["results"] == ["a", None, "c"]
        assert [step["name"] for step in job["steps"]] == ["look", "extra", "do a", "do b", "do c", "sum up"]
        assert [child["subject"] for child in outcome["children"]] == ["a", "b", "c"]
        assert {child["parent"] for child in outcome["children"]} == {JOB}
        # A step that was cut off is run again, and only that one.
        again = Counter(log)
        assert set(again) == {
            "look",
            "extra",
            "sum up",
            *(f"{do} {of}" for do in ("prepare", "one", "two") for of in "abc"),
        }
        assert sum(again.values()) - len(again) <= 3  # two children and their parent may each have been in a step


def test_a_job_killed_while_it_is_cancelled_asks_its_children_again(tmp_path: Path) -> None:
    leaves = [{"subject": name, "wait": True} for name in "abc"]
    for outcome, log in lives(tmp_path, {"subject": "x", "leaves": leaves, "at_once": 2}, cancel="one b"):
        job = outcome["job"]
        assert job["result"] == {
            "cancelled": True,
            "states": ["cancelled"] * 3,
            "results": [None] * 3,
            "errors": ["a was cancelled.", "b was cancelled.", ""],
        }
        assert "one c" not in log
        asked = [line for line in log if line.startswith("asked")]
        assert asked[-2:] == ["asked b", "asked a"]
