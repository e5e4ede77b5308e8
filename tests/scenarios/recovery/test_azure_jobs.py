"""Recovery jobs with Azure as their target, from the vault to a machine on managed disks and back to nothing, with the
server killed between any two calls. Azure is the double of Resource Manager, its disks are page blobs of Azurite."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.scenarios.recovery import drill
from tests.scenarios.recovery.azure_drill import PREPARED, Errand
from tests.scenarios.recovery.azure_world import STRIDE, World, about, ask, open_world, put_back
from tests.scenarios.recovery.lives import at_every_moment, outcome

from farshore.sites.azure.names import NETWORK


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with open_world(tmp_path_factory.mktemp("recovery"), tmp_path_factory.mktemp("azure")) as opened:
        yield opened


@pytest.fixture(autouse=True)
def clean(world: World) -> Iterator[None]:
    with put_back(world):
        yield


def is_up(world: World, home: Path, errand: Errand) -> None:
    """One machine of it runs, on a disk that is the point's with its guest prepared, byte for byte."""
    (machine,) = [one for one in world.of(errand.failover) if one.get("type", "").endswith("virtualMachines")]
    assert machine["power"] == "running"
    point, data = (home / "web1.raw").read_bytes(), world.disk(errand.failover)
    assert data[: len(point)] == PREPARED + point[len(PREPARED) :]
    assert not list((home / "failovers" / errand.failover).glob("disk-*"))
    assert not any(data[len(point) : -512])


def test_from_a_test_to_a_machine_that_is_deleted(world: World, tmp_path: Path) -> None:
    home = Path(shutil.copytree(world.home, tmp_path / "home"))
    before = world.held()
    test = ask(home, "test")
    assert world.live(home, [test]) == 0
    assert drill.standing(home, test.failover) == ("running", "protected")
    is_up(world, home, test)
    assert [one["name"] for one in world.networks()].count(f"fs-{test.failover}-net") == 1

    real = ask(home, "failover")
    jobs = [about(test, "cleanup"), real, *(about(real, kind) for kind in ("failover-stop", "failover-start"))]
    assert world.live(home, [*jobs, about(real, "commit")]) == 0
    assert {job["state"] for job in outcome(home)["jobs"]} == {"succeeded"}
    assert world.of(test.failover) == []
    assert drill.standing(home, test.failover)[0] == "cleaned-up"
    is_up(world, home, real)
    assert drill.standing(home, real.failover) == ("committed", "committed")
    (machine,) = [one for one in world.of(real.failover) if one.get("type", "").endswith("virtualMachines")]
    assert drill.place(home)[1] == "cloud"
    assert drill.place(home)[2][19:] == machine["properties"]["vmId"][19:], "it owns the stream by its hardware id"

    assert world.live(home, [about(real, "failover-delete")]) == 0
    assert world.held() == before


@pytest.mark.parametrize("where", ["comp=page", pytest.param("/networkInterfaces/", marks=pytest.mark.soak)])
def test_a_failover_that_is_cancelled_or_fails_leaves_nothing(world: World, tmp_path: Path, where: str) -> None:
    home = Path(shutil.copytree(world.home, tmp_path / "home"))
    before = world.held()
    cancelled = ask(home, "failover")
    assert world.live(home, [cancelled], cancel_on=where) == 0
    assert outcome(home)["job"]["state"] == "cancelled"
    assert drill.standing(home, cancelled.failover) == ("cancelled", "protected")
    assert world.held() == before

    world.served.double.known.cores = 0
    failed = ask(home, "failover")
    assert world.live(home, [failed]) == 0
    job = outcome(home)["job"]
    assert (job["state"], "quota" in job["error"].lower()) == ("failed", True)
    assert drill.standing(home, failed.failover) == ("failed", "protected")
    assert world.held() == before


def killed(
    world: World, folder: Path, job: Callable[[Path], tuple[list[Errand], Errand]], *, least: int
) -> Iterator[tuple[Path, Errand]]:
    """For every moment of a job: a home in which it was killed there, and finished by the next server. ``job``: asks
    for what goes before, and for the job itself."""
    for home, at in at_every_moment(world.home, folder, least=least, stride=STRIDE):
        before, last = job(home)
        assert world.live(home, [*before, last], at) == (-signal.SIGKILL if at else 0), f"moment {at}"
        if at:
            assert world.live(home, [*before, last]) == 0
        assert outcome(home)["job"]["state"] == "succeeded", f"moment {at}: {outcome(home)['job']}"
        yield home, last


def test_a_failover_killed_anywhere_brings_up_one_machine(world: World, tmp_path: Path) -> None:
    for home, errand in killed(world, tmp_path / "failover", lambda home: ([], ask(home, "failover")), least=20):
        assert drill.standing(home, errand.failover) == ("running", "failed-over")
        is_up(world, home, errand)


@pytest.mark.soak
def test_a_clean_up_killed_anywhere_removes_all_of_it_and_nothing_else(world: World, tmp_path: Path) -> None:
    def job(home: Path) -> tuple[list[Errand], Errand]:
        test = ask(home, "test")
        return [test], about(test, "cleanup")

    other = ask_beside(world, tmp_path)
    before = world.held()
    for home, errand in killed(world, tmp_path / "cleanup", job, least=8):
        assert drill.standing(home, errand.failover) == ("cleaned-up", "protected")
        assert world.of(errand.failover) == []
        assert world.held() == before
        assert not [one for one in world.networks() if NETWORK in (one.get("tags") or {})]
    assert world.of(other.failover)


@pytest.mark.soak
def test_a_test_killed_anywhere_is_cleaned_up_whole(world: World, tmp_path: Path) -> None:
    before = world.held()
    for home, errand in killed(world, tmp_path / "test", lambda home: ([], ask(home, "test")), least=20):
        is_up(world, home, errand)
        assert world.live(home, [about(errand, "cleanup")]) == 0
        assert world.held() == before


def ask_beside(world: World, folder: Path) -> Errand:
    """Another installation's machine in the same group: it is not to be touched."""
    home = Path(shutil.copytree(world.home, folder / "other"))
    other = ask(home, "test")
    assert world.live(home, [other]) == 0
    return other
