"""A machine at Azure is replicated through a process server that is made beside it, and comes home: by the double, with
the server of Farshore killed between any two calls. The process server's part is played here: it enrols with the token
of the user data that the double was given."""

from __future__ import annotations

import base64
import contextlib
import copy
import json
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.azure import resources as rules
from tests.file_site import FileSite, Fuse
from tests.scenarios.recovery import drill
from tests.scenarios.recovery.azure_drill import Errand
from tests.scenarios.recovery.azure_world import SOAK, World, about, ask, open_world, put_back
from tests.scenarios.recovery.lives import at_every_moment, outcome
from tests.scenarios.recovery.test_jobs_killed import identifier
from tests.scenarios.recovery.test_places import agent_asks, replicated
from tests.unit.vault.synthetic import MACHINE

from farshore.catalog import failovers, machines, process_servers
from farshore.catalog.database import Catalog
from farshore.model.errors import FarshoreError
from farshore.model.states import Direction
from farshore.protection import server_enrolment
from farshore.sites.azure.names import server_name
from farshore.sites.port import Condition, FailoverId

STRIDE = 1 if SOAK else 8
"""The gate dies once or twice, the long set at all moments."""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with open_world(tmp_path_factory.mktemp("recovery"), tmp_path_factory.mktemp("azure")) as opened:
        yield opened


@pytest.fixture(autouse=True)
def clean(world: World) -> Iterator[None]:
    with put_back(world):
        yield


@contextlib.contextmanager
def catalog_of(home: Path) -> Iterator[Catalog]:
    catalog = Catalog(f"sqlite:///{home / 'catalog.sqlite'}")
    try:
        yield catalog
    finally:
        catalog.close()


@contextlib.contextmanager
def first_boots(world: World, home: Path) -> Iterator[list[str]]:
    """Machines that start from an image do what their user data says. Yields the tokens that opened something."""
    stop, spent = threading.Event(), []  # type: ignore[var-annotated]

    def enrol(catalog: Catalog, text: str) -> None:
        files = {one["path"]: one["content"] for one in json.loads(text.removeprefix("#cloud-config\n"))["write_files"]}
        token = files["/run/farshore-token"].strip()
        url = files["/etc/farshore/process-server.toml"].splitlines()[0].partition('"')[2].rstrip('"')
        with catalog.writing() as tx:
            row = server_enrolment.enrol(tx, token, time.time_ns())
            process_servers.register(tx, row.id, url, "1", time.time_ns())
            row.spool_limit, row.last_seen = 10, time.time_ns() + 3600 * 10**9
        spent.append(token)

    def run() -> None:
        with catalog_of(home) as catalog:
            while not stop.is_set():
                for path, once in list(world.served.double.known.once.items()):
                    machine = world.served.double.known.held.get(path, {})
                    if machine.get("power") == "running" and once.get("customData"):
                        with contextlib.suppress(FarshoreError):  # a token that was spent, or is known no more
                            enrol(catalog, base64.b64decode(once["customData"]).decode())
                stop.wait(0.05)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield spent
    finally:
        stop.set()
        thread.join()


def server_of(home: Path) -> dict[str, Any]:
    """The temporary process server, and where the machine sends."""
    with catalog_of(home) as catalog, catalog.reading() as tx:
        machine = machines.get(tx, MACHINE)
        found = [row for row in process_servers.every(tx) if row.temporary]
        return {
            "servers": [(row.name, row.url, row.temporary["failover"], row.temporary["used"]) for row in found],
            "ids": [row.id for row in found],
            "to": machine.process_server,
            "chosen": machine.chosen_server,
        }


def parts(world: World, failover: str) -> set[str]:
    """What Azure has of the process server beside a failover's machine."""
    return {path.rpartition("/")[2] for path in world.held() if server_name(FailoverId(failover)) in path}


def delete_by_hand(world: World, failover: str) -> None:
    known = world.served.double.known
    (path,) = [one for one in known.held if one.endswith(f"/virtualmachines/{server_name(FailoverId(failover))}")]
    rules.delete(known, "virtualmachines", path)()


def every_part(failover: str) -> set[str]:
    return {server_name(FailoverId(failover), part) for part in ("", "nic", "nsg", "os")}


@pytest.fixture(scope="module")
def away(world: World, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Errand, dict[str, Any]]:
    """A machine that runs at Azure for good, and what Azure has then."""
    known = world.served.double.known
    before = copy.deepcopy(known.held)
    home = Path(shutil.copytree(world.home, tmp_path_factory.mktemp("away") / "home"))
    real = ask(home, "failover")
    with catalog_of(home) as catalog, catalog.writing() as tx:
        failovers.get(tx, real.failover).target = {"networks": [{"kind": "network", "name": "servers"}]}
    assert world.live(home, [real, about(real, "commit")]) == 0
    assert drill.standing(home, real.failover) == ("committed", "committed"), outcome(home)
    held = copy.deepcopy(known.held)
    known.held.clear()
    known.held |= before
    return home, real, held


def copied(world: World, away: tuple[Path, Errand, dict[str, Any]], folder: Path) -> tuple[Path, Errand]:
    """The same anew."""
    home, real, held = away
    world.served.double.known.held.clear()
    world.served.double.known.held |= copy.deepcopy(held)
    world.served.double.known.once.clear()
    return Path(shutil.copytree(home, folder)), real


def test_a_machine_at_azure_sends_to_a_server_that_is_made_for_it_and_goes_with_it(
    world: World,
    away: tuple[Path, Errand, dict[str, Any]],
    tmp_path: Path,
) -> None:
    home, real = copied(world, away, tmp_path / "home")
    before = world.held()
    reprotect = about(real, "reprotect")
    agent = agent_asks(home, drill.place(home)[2])
    with first_boots(world, home) as spent:
        assert world.live(home, [reprotect]) == 0
        agent.join()
        assert outcome(home)["job"]["state"] == "succeeded", outcome(home)["job"]
        assert len(spent) == 1
        found = server_of(home)
        ((name, url, failover, used),) = found["servers"]
        assert (name, failover, used) == (f"cloud-{real.failover[:8]}", real.failover, True)
        assert url.startswith("https://10.20.0.")
        assert [found["to"]] == found["ids"] == [found["chosen"]]
        assert parts(world, real.failover) == every_part(real.failover)
        assert drill.place(home)[0] == "resync"
        # Nothing of the token is left where jobs keep what they did.
        for path in home.glob("*.sqlite*"):
            assert spent[0].encode() not in path.read_bytes(), path
        # Once more: nothing is made, nothing is spent.
        assert world.live(home, [reprotect, about(real, "reprotect")]) == 0
        assert outcome(home)["job"]["state"] == "succeeded", outcome(home)["job"]
        assert len(spent) == 1
        # Somebody deletes its machine: another one is made, at the same address, and is the same server.
        delete_by_hand(world, real.failover)
        assert world.live(home, [reprotect, about(real, "reprotect")]) == 0
        assert outcome(home)["job"]["state"] == "succeeded", outcome(home)["job"]
        assert len(spent) == 2
        assert server_of(home) == found
    assert world.live(home, [about(real, "failover-delete")]) == 0
    assert outcome(home)["job"]["state"] == "succeeded", outcome(home)["job"]
    assert world.of(real.failover) == []
    assert world.held() < before
    found = server_of(home)
    assert (found["servers"], found["to"], found["chosen"]) == ([], drill.SERVER, "")


def test_a_reprotection_that_fails_or_is_cancelled_leaves_nothing(
    world: World,
    away: tuple[Path, Errand, dict[str, Any]],
    tmp_path: Path,
) -> None:
    home, real = copied(world, away, tmp_path / "home")
    before = world.held()
    world.served.double.known.cores = 0
    assert world.live(home, [about(real, "reprotect")]) == 0
    assert "quota" in outcome(home)["job"]["error"].lower()
    assert world.held() == before
    world.served.double.known.cores = 100
    assert world.live(home, [about(real, "reprotect")], cancel_on=f"virtualMachines/{server_name(real.failover)}") == 0  # type: ignore[arg-type]
    assert outcome(home)["job"]["state"] == "cancelled", outcome(home)["job"]
    assert world.held() == before
    found = server_of(home)
    assert (found["servers"], found["to"], found["chosen"]) == ([], drill.SERVER, "")
    assert drill.place(home)[0] == "committed"


def test_a_reprotection_killed_anywhere_ends_with_one_server(
    world: World,
    away: tuple[Path, Errand, dict[str, Any]],
    tmp_path: Path,
) -> None:
    for home, at in at_every_moment(away[0], tmp_path / "killed", least=10, stride=STRIDE):
        shutil.rmtree(home)
        _, real = copied(world, away, home)
        reprotect = about(real, "reprotect")
        agent = agent_asks(home, drill.place(home)[2])
        with first_boots(world, home):
            assert world.live(home, [reprotect], at) == (-signal.SIGKILL if at else 0), f"moment {at}"
            if at:
                assert world.live(home, [reprotect]) == 0
            agent.join()
        job = outcome(home)["job"]
        assert job["state"] == "succeeded", f"moment {at}: {job}"
        found = server_of(home)
        assert [found["to"]] == found["ids"], f"moment {at}"
        assert parts(world, real.failover) == every_part(real.failover), f"moment {at}"


def going_home(home: Path) -> Errand:
    errand = Errand("failover", identifier(), identifier(), home=True)
    drill.request(home, errand.failover, errand.job, "failover", Direction.HOME)
    return errand


def reprotected(world: World, home: Path, real: Errand) -> None:
    """As it is once its copy there is whole."""
    hardware = drill.place(home)[2]
    agent = agent_asks(home, hardware)
    with first_boots(world, home):
        assert world.live(home, [about(real, "reprotect")]) == 0
    agent.join()
    assert outcome(home)["job"]["state"] == "succeeded", outcome(home)["job"]
    replicated(home, hardware)


def well(home: Path) -> None:
    """The process server at home reports."""
    with catalog_of(home) as catalog, catalog.writing() as tx:
        row = process_servers.get(tx, drill.SERVER)
        row.spool_limit, row.last_seen = 10, time.time_ns() + 3600 * 10**9


def test_a_machine_comes_home_from_azure_and_nothing_is_left_there(
    world: World,
    away: tuple[Path, Errand, dict[str, Any]],
    tmp_path: Path,
) -> None:
    home, real = copied(world, away, tmp_path / "home")
    reprotected(world, home, real)
    # All that is closed is seen before anything stops.
    with catalog_of(home) as catalog, catalog.writing() as tx:
        (server,) = [row for row in process_servers.every(tx) if row.temporary]
        server.store_trouble = "The store does not answer."
        machines.get(tx, MACHINE).last_seen = time.time_ns() - 3600 * 10**9
    blocked = going_home(home)
    assert world.live(home, [blocked]) == 0
    error = outcome(home)["job"]["error"]
    for words in (
        f"its process server cloud-{real.failover[:8]} cannot store (The store does not answer.)",
        "process server ps, to which it will send at home, does not report",
        "its agent at cloud has been silent for",
    ):
        assert words in error, error
    (machine,) = [
        one for one in world.of(real.failover) if str(one["id"]).endswith(f"/virtualMachines/fs-{real.failover}")
    ]
    assert machine["power"] == "running"
    assert parts(world, real.failover) == every_part(real.failover)

    with catalog_of(home) as catalog, catalog.writing() as tx:
        process_servers.get(tx, server.id).store_trouble = ""
        machines.get(tx, MACHINE).last_seen = 0
    well(home)
    back = going_home(home)
    world.served.double.faults.clear()
    assert world.live(home, [back]) == 0
    job = outcome(home)["job"]
    assert job["state"] == "succeeded", job
    assert drill.place(home) == ("resync", "", "")
    found = server_of(home)
    assert (found["servers"], found["to"], found["chosen"]) == ([], drill.SERVER, "")
    assert world.of(real.failover) == []
    stopped = [line for line in world.served.double.faults.seen if line.endswith(f"fs-{real.failover}/deallocate")]
    assert len(stopped) == 1
    at_home = FileSite(home / "site-at-home", Fuse(0))
    assert at_home.status(FailoverId(back.failover)).condition is Condition.RUNNING


def test_a_failback_killed_anywhere_ends_with_one_machine_at_home(
    world: World,
    away: tuple[Path, Errand, dict[str, Any]],
    tmp_path: Path,
) -> None:
    ready, real = copied(world, away, tmp_path / "ready")
    reprotected(world, ready, real)
    well(ready)
    held = copy.deepcopy(world.served.double.known.held)
    for home, at in at_every_moment(ready, tmp_path / "killed", least=10, stride=STRIDE):
        world.served.double.known.held.clear()
        world.served.double.known.held |= copy.deepcopy(held)
        back = going_home(home)
        assert world.live(home, [back], at) == (-signal.SIGKILL if at else 0), f"moment {at}"
        if at:
            assert world.live(home, [back]) == 0
        job = outcome(home)["job"]
        assert job["state"] == "succeeded", f"moment {at}: {job}"
        assert world.of(real.failover) == [], f"moment {at}"
        found = server_of(home)
        assert (found["servers"], found["to"], found["chosen"]) == ([], drill.SERVER, ""), f"moment {at}"
        at_home = FileSite(home / "site-at-home", Fuse(0))
        assert at_home.status(FailoverId(back.failover)).condition is Condition.RUNNING
