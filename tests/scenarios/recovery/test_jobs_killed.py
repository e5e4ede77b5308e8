"""Recovery jobs, killed at every moment between two effects: the next server finishes them, and nothing is left over.

A moment lies before and after every write transaction of the catalog and every act on the site or the exports.
"""

from __future__ import annotations

import json
import shutil
import signal
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.file_site import FileSite, Fuse
from tests.scenarios.recovery import drill
from tests.scenarios.recovery.lives import PROCESSES, at_every_moment, live, live_to_the_end, outcome

from farshore.sites.port import Condition, FailoverId, Way

WAYS = (Way.SERVED, Way.WRITTEN)
"""How the site of these tests takes disks. What is uploaded has tests of its own: tests/contract/test_azure_site.py."""


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("recovery")
    drill.prepare(home)
    return home


@pytest.fixture
def home(prepared: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(prepared, tmp_path / "home"))


def identifier() -> str:
    return str(uuid.uuid4())


def lives(
    prepared: Path,
    folder: Path,
    kind: str,
    before: Any = None,
    away: tuple[str, ...] = ("failed-over", "committed"),
    **more: Any,
) -> Iterator[tuple[Path, drill.Task]]:
    """For every moment of a job: a home in which it was killed there and finished by the next server."""
    for home, at in at_every_moment(prepared, folder / kind, least=5):
        task = drill.Task(home, kind, identifier(), identifier(), die_at=at, **more)
        if before is not None:
            before(task)
        assert live(task) == (-signal.SIGKILL if at else 0), f"moment {at}"
        state, site, owner = drill.place(home)
        assert bool(site) == bool(owner) == (state in away), "the place changes with the state"
        if at:
            assert live(drill.Task(home, kind, task.failover, task.job, **more)) == 0
        yield home, task


def site_of(home: Path) -> FileSite:
    return FileSite(home / "site", Fuse(0))


@pytest.mark.parametrize("way", WAYS)
def test_a_failover_killed_anywhere_brings_up_one_machine(prepared: Path, tmp_path: Path, way: Way) -> None:
    def asked(task: drill.Task) -> None:
        drill.request(task.home, task.failover, task.job, "failover")

    for home, task in lives(prepared, tmp_path, "failover", asked, way=way):
        job = outcome(home)["job"]
        assert job["state"] == "succeeded", job
        assert job["result"]["position"] == "1:12"
        assert drill.standing(home, task.failover) == ("running", "failed-over")
        assert drill.place(home) == ("failed-over", "files", task.failover)
        machine = site_of(home).read(FailoverId(task.failover))
        assert machine is not None
        assert machine["starts"] == 1
        assert drill.stands(home, task.failover, way)
        if way is Way.WRITTEN:
            written = home / "failovers" / task.failover / "disk-0.raw"
            assert written.read_bytes() == (home / "web1.raw").read_bytes()
        assert [step["state"] for step in job["steps"]] == ["succeeded"] * len(job["steps"])


@pytest.mark.parametrize("way", [Way.SERVED, pytest.param(Way.WRITTEN, marks=pytest.mark.soak)])
def test_a_failover_that_fails_gives_the_machine_back(prepared: Path, tmp_path: Path, way: Way) -> None:
    def asked(task: drill.Task) -> None:
        drill.request(task.home, task.failover, task.job, "failover")

    for home, task in lives(prepared, tmp_path, "failover", asked, refuse=True, way=way):
        job = outcome(home)["job"]
        assert (job["state"], job["error"]) == ("failed", "There is no room for it.")
        assert drill.standing(home, task.failover) == ("failed", "protected")
        assert drill.place(home) == ("protected", "", "")
        nothing_left(home, task.failover)


def test_a_clean_up_killed_anywhere_leaves_nothing(home: Path, tmp_path: Path) -> None:
    test = identifier()
    job = identifier()
    drill.request(home, test, job, "test")
    assert live(drill.Task(home, "test-failover", test, job)) == 0
    assert drill.standing(home, test) == ("running", "protected")

    # The same failover is cleaned up in every life.
    for copy, at in at_every_moment(home, tmp_path / "cleanup", least=1):
        live_to_the_end(drill.Task(copy, "cleanup", test, identifier(), die_at=at))
        assert drill.standing(copy, test) == ("cleaned-up", "protected")
        nothing_left(copy, test)


@pytest.mark.parametrize("way", WAYS)
def test_the_point_can_be_changed_until_the_commit(home: Path, way: Way) -> None:
    first, second = identifier(), identifier()
    for failover in (first, second):
        job = identifier()
        drill.request(home, failover, job, "failover")
        assert live(drill.Task(home, "failover", failover, job, way=way)) == 0
        assert drill.standing(home, failover) == ("running", "failed-over")
    assert drill.standing(home, first)[0] == "superseded"
    assert site_of(home).present() == (FailoverId(second),)

    refused = drill.Task(home, "cleanup", second, identifier(), way=way)
    assert live(refused) == 0
    assert outcome(home)["job"]["state"] == "failed"
    assert drill.standing(home, second) == ("running", "failed-over")

    assert live(drill.Task(home, "commit", second, identifier(), way=way)) == 0
    assert drill.standing(home, second) == ("committed", "committed")
    assert drill.place(home) == ("committed", "files", second)
    assert drill.standing(home, first)[0] == "cleaned-up"
    assert drill.stands(home, second, way)
    assert (home / "failovers" / second / "hydrate").exists() is (way is Way.SERVED)
    nothing_left(home, first)


def test_a_second_failover_waits_for_the_first(home: Path) -> None:
    first, second = identifier(), identifier()
    drill.request(home, first, identifier(), "failover")
    job = identifier()
    drill.request(home, second, job, "failover")
    assert live(drill.Task(home, "failover", second, job)) == 0
    job = identifier()
    assert live(drill.Task(home, "failover", first, job)) == 0
    assert drill.standing(home, second)[0] == "superseded"


@pytest.mark.parametrize("way", WAYS)
def test_a_passing_error_anywhere_costs_nothing(home: Path, way: Way) -> None:
    earlier = None
    for one in outcomes(home, "error", way):
        assert (one["job"], one["standing"]) == ("succeeded", ["running", "failed-over"])
        assert one["running"] == one["standing at its site"] == [one["failover"]]
        if earlier is not None:
            assert drill.standing(home, earlier)[0] == "superseded"
        earlier = one["failover"]


@pytest.mark.parametrize("way", WAYS)
def test_a_failover_cancelled_anywhere_is_undone_or_has_come_up(home: Path, way: Way) -> None:
    """Undone: the machine that it was to replace runs again, or the source goes on."""
    running: list[str] = []
    seen = set()
    for one in outcomes(home, "cancel", way):
        seen.add(one["job"])
        if one["job"] == "succeeded":
            assert one["standing"] == ["running", "failed-over"]
            running = [one["failover"]]
        else:
            assert one["job"] == "cancelled"
            assert one["standing"] == ["cancelled", "failed-over" if running else "protected"]
            nothing_left(home, one["failover"])
        assert one["running"] == one["standing at its site"] == running
    assert seen == {"succeeded", "cancelled"}


def test_what_cannot_replace_a_machine_leaves_it_running(home: Path) -> None:
    first, second = identifier(), identifier()
    for failover, refuse in ((first, False), (second, True)):
        job = identifier()
        drill.request(home, failover, job, "failover")
        assert live(drill.Task(home, "failover", failover, job, refuse=refuse)) == 0
    assert drill.standing(home, second) == ("failed", "failed-over")
    assert drill.standing(home, first)[0] == "running"
    assert site_of(home).status(FailoverId(first)).condition is Condition.RUNNING
    nothing_left(home, second)


@pytest.mark.soak
def test_a_change_of_the_point_killed_anywhere_ends_with_one_machine(home: Path, tmp_path: Path) -> None:
    first, job = identifier(), identifier()
    drill.request(home, first, job, "failover")
    assert live(drill.Task(home, "failover", first, job)) == 0

    def asked(task: drill.Task) -> None:
        drill.request(task.home, task.failover, task.job, "failover")

    for refuse in (False, True):
        away = ("failed-over", "failing-over")  # one runs at the site while the other is brought up
        for changed, task in lives(home, tmp_path / str(refuse), "failover", asked, away, refuse=refuse):
            kept = first if refuse else task.failover
            assert drill.standing(changed, first)[0] == ("running" if refuse else "superseded")
            assert drill.standing(changed, task.failover)[0] == ("failed" if refuse else "running")
            site = site_of(changed)
            running = [one for one in site.present() if site.status(one).condition is Condition.RUNNING]
            assert running == [kept]


def outcomes(home: Path, trouble: str, way: Way) -> list[dict[str, Any]]:
    process = PROCESSES.Process(target=drill.one_after_another, args=(home, trouble, way))
    process.start()
    process.join(300)
    assert process.exitcode == 0
    found = list(json.loads((home / "outcomes.json").read_text()))
    assert len(found) > 5
    return found


def nothing_left(home: Path, failover: str) -> None:
    assert FailoverId(failover) not in site_of(home).present()
    assert not (home / "failovers" / failover).exists()
