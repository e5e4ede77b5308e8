"""Recovery jobs with Azure as their target, from the vault to a machine on managed disks and back to nothing, with the
server killed between any two calls. Azure is the double of Resource Manager, its disks are page blobs of Azurite."""

from __future__ import annotations

import copy
import os
import shutil
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.azure.resources import Resource
from tests.azure.running import Served, azure
from tests.contract import doubles
from tests.scenarios.recovery import drill
from tests.scenarios.recovery.azure_drill import PREPARED, Cloud, Errand, carry_out
from tests.scenarios.recovery.lives import PROCESSES, at_every_moment, outcome
from tests.scenarios.recovery.test_jobs_killed import identifier

from farshore.catalog import sites
from farshore.catalog.database import Catalog
from farshore.catalog.tables import SiteRow
from farshore.sites.azure.names import FAILOVER, NETWORK

SOAK = os.environ.get("FARSHORE_SOAK") == "1"
STRIDE = 1 if SOAK else 24
"""The gate dies at a few moments, the long set at all."""


@dataclass(frozen=True)
class World:
    """A prepared home, and the double that its site is at."""

    home: Path
    served: Served

    @property
    def cloud(self) -> Cloud:
        return Cloud(dict(self.served.settings), self.served.secret)

    def live(self, home: Path, errands: Sequence[Errand], at: int = 0, cancel_on: str = "") -> int | None:
        """Have a server carry them out; the exit code of its process."""
        process = PROCESSES.Process(target=carry_out, args=(home, self.cloud, tuple(errands), at, cancel_on))
        process.start()
        process.join(240)
        return process.exitcode

    def of(self, failover: str) -> list[Resource]:
        """All that Azure has of a failover: by its name or its tags."""
        every = self.served.double.known.held.items()
        return [one for path, one in every if failover in path or (one.get("tags") or {}).get(FAILOVER) == failover]

    def held(self) -> set[str]:
        return set(self.served.double.known.held)

    def networks(self) -> list[Resource]:
        return [one for _, one in self.served.double.known.of("virtualNetworks")]

    def disk(self, failover: str) -> bytes:
        (disk,) = [one for one in self.of(failover) if one.get("type", "").endswith("disks")]
        data: bytes = self.served.double.known.blobs.direct(disk["properties"]["uniqueId"]).download_blob().readall()
        return data


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    home, files = tmp_path_factory.mktemp("recovery"), tmp_path_factory.mktemp("azure")
    drill.prepare(home)
    catalog = Catalog(f"sqlite:///{home / 'catalog.sqlite'}")
    with catalog.writing() as tx:
        sites.add(tx, SiteRow(id="cloud", kind="azure"))
    catalog.close()
    try:
        with doubles.azurite() as (_, environment), azure(files, environment) as served:
            yield World(home, served)
    except FileNotFoundError as missing:
        pytest.skip(f"Azurite cannot be started here: {missing}")


@pytest.fixture(autouse=True)
def clean(world: World) -> Iterator[None]:
    """What a test leaves is nothing to the next one."""
    known = world.served.double.known
    before = copy.copy(known.held)
    yield
    known.cores = 100
    world.served.double.faults.clear()
    known.held.clear()
    known.held |= before


def ask(home: Path, kind: str) -> Errand:
    """A failover that was asked for, and its job."""
    errand = Errand("test-failover" if kind == "test" else kind, identifier(), identifier())
    drill.request(home, errand.failover, errand.job, kind, site="cloud")
    return errand


def about(errand: Errand, kind: str) -> Errand:
    return Errand(kind, errand.failover, identifier())


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
