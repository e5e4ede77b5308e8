"""Where a machine runs and who owns its stream, from the failover to the way home, with the jobs that change it.

The gate takes every ninth moment of a kill on the way home, the long set each one.
"""

from __future__ import annotations

import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.file_site import FileSite, Fuse
from tests.scenarios.recovery import drill
from tests.scenarios.recovery.lives import live, outcome
from tests.unit.protection import catalogs
from tests.unit.vault.synthetic import MACHINE

from farshore.catalog import failovers, machines, process_servers
from farshore.catalog.database import Catalog
from farshore.catalog.tables import EpochRow
from farshore.model.errors import Fenced
from farshore.model.states import Direction, MachineState
from farshore.protection.granting import grant
from farshore.sites.port import Condition, FailoverId

STRIDE = 1 if os.environ.get("FARSHORE_SOAK") else 9
SOURCE = "the-source"
AWAY, HOME, JOB = (f"{letter * 8}-0000-4000-8000-000000000000" for letter in "abc")


def job_of(home: Path) -> dict[str, Any]:
    return dict(outcome(home)["job"])


def ask(home: Path, hardware_id: str) -> EpochRow:
    """An agent on this hardware asks for the stream."""
    catalog = Catalog(f"sqlite:///{home / 'catalog.sqlite'}")
    try:
        with catalog.writing() as tx:
            server = process_servers.get(tx, drill.SERVER)
            wanted = catalogs.request(run=hardware_id, description=catalogs.description(hardware=hardware_id))
            return grant(tx, machines.get(tx, MACHINE), wanted, server, 1)
    finally:
        catalog.close()


def set_state(home: Path, state: MachineState, **more: str) -> None:
    catalog = Catalog(f"sqlite:///{home / 'catalog.sqlite'}")
    with catalog.writing() as tx:
        row = machines.get(tx, MACHINE)
        machines.set_state(row, state)
        for name, value in more.items():
            setattr(row, name, value)
    catalog.close()


@pytest.fixture(scope="module")
def committed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The machine was failed over to the site, and that is final."""
    home = tmp_path_factory.mktemp("places")
    drill.prepare(home)
    set_state(home, MachineState.PROTECTED, hardware_id=SOURCE)
    drill.request(home, AWAY, JOB, "failover")
    assert live(drill.Task(home, "failover", AWAY, JOB)) == 0
    assert live(drill.Task(home, "commit", AWAY, "commit")) == 0
    assert drill.place(home) == ("committed", "files", AWAY)
    return home


@pytest.fixture
def reprotected(committed: Path, tmp_path: Path) -> Path:
    """And the recovered machine is replicated from there."""
    home = Path(shutil.copytree(committed, tmp_path / "home"))
    set_state(home, MachineState.RESYNC)
    return home


def way_home(home: Path) -> drill.Task:
    drill.request(home, HOME, HOME, "failover", Direction.HOME)
    return drill.Task(home, "failover", HOME, HOME)


def test_a_source_that_wakes_after_the_commit_gets_no_stream(committed: Path, tmp_path: Path) -> None:
    home = Path(shutil.copytree(committed, tmp_path / "home"))
    for hardware, words in ((SOURCE, "files runs it"), ("", "files runs it"), (AWAY, "is not replicated from files")):
        with pytest.raises(Fenced, match=words):
            ask(home, hardware)
    # Nor once the recovered machine is replicated from there: that one does.
    set_state(home, MachineState.RESYNC)
    for hardware in (SOURCE, "", "another-twin"):
        with pytest.raises(Fenced, match=f"runs at files as {AWAY}"):
            ask(home, hardware)
    assert ask(home, AWAY).epoch == 2
    with pytest.raises(Fenced):
        ask(home, SOURCE)


def test_the_way_home_is_the_same_workflow(reprotected: Path) -> None:
    """What runs at the site is stopped before its stream is fenced, and removed once the machine has come home."""
    task = way_home(reprotected)
    assert live(task) == 0
    assert job_of(reprotected)["state"] == "succeeded"
    steps = sorted(job_of(reprotected)["steps"], key=lambda step: step["started"])
    names = [step["name"] for step in steps]
    assert names.index("stop the earlier machine") < names.index("fence the source") < names.index("choose the point")
    assert drill.place(reprotected) == ("failed-over", "", "")
    assert drill.standing(reprotected, AWAY)[0] == "superseded"
    assert FileSite(reprotected / "site", Fuse(0)).present() == (HOME,)
    assert live(drill.Task(reprotected, "commit", HOME, "home")) == 0
    assert drill.place(reprotected) == ("resync", "", "")
    assert drill.standing(reprotected, AWAY)[0] == "cleaned-up"
    # Home, on new hardware: that is granted, and neither what ran at the site nor the old source.
    for hardware in (AWAY, SOURCE):
        with pytest.raises(Fenced, match="other hardware"):
            ask(reprotected, hardware)
    assert ask(reprotected, HOME).epoch == 2
    # It is no recovered machine any more: nobody starts, stops or destroys it from here.
    assert live(drill.Task(reprotected, "failover-delete", HOME, "delete")) == 0
    assert "has come home" in job_of(reprotected)["error"]
    catalog = Catalog(f"sqlite:///{reprotected / 'catalog.sqlite'}")
    with catalog.reading() as tx:
        assert (failovers.kept_up(tx), failovers.elsewhere(tx, MACHINE)) == ([], [])
    catalog.close()


@pytest.mark.parametrize("refuse", [False, True])
def test_a_way_home_killed_anywhere_ends_with_one_machine(reprotected: Path, tmp_path: Path, refuse: bool) -> None:
    moments, at = 1, 0
    while at <= moments:
        home = Path(shutil.copytree(reprotected, tmp_path / str(at)))
        task = replace(way_home(home), die_at=at, refuse=refuse)
        assert live(task) == (-signal.SIGKILL if at else 0)
        state, site, owner = drill.place(home)
        assert (site, owner) == (("", "") if state == "failed-over" else ("files", AWAY))
        if at:
            assert live(replace(task, die_at=0)) == 0
        else:
            moments = outcome(home)["moments"]
            assert moments > 10
        sites = FileSite(home / "site", Fuse(0))
        running = [one for one in sites.present() if sites.status(one).condition is Condition.RUNNING]
        assert running == [FailoverId(AWAY if refuse else HOME)]
        assert drill.place(home) == (("resync", "files", AWAY) if refuse else ("failed-over", "", ""))
        assert drill.standing(home, AWAY)[0] == ("committed" if refuse else "superseded")
        shutil.rmtree(home)
        at += STRIDE


def test_nothing_is_brought_home_that_is_there(reprotected: Path) -> None:
    set_state(reprotected, MachineState.RESYNC, site="", owner="")
    assert live(way_home(reprotected)) == 0
    assert job_of(reprotected)["error"] == "web1 runs where it was enrolled."
