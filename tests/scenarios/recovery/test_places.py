"""Where a machine runs and who owns its stream, from the failover to the way home, with the jobs that change it.

The gate takes every ninth moment of a kill on the way home, the long set each one.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.file_site import FileSite, Fuse
from tests.scenarios.recovery import drill
from tests.scenarios.recovery.lives import at_every_moment, live, live_to_the_end, outcome
from tests.unit.protection import catalogs
from tests.unit.vault.synthetic import MACHINE
from tests.waiting import until

from farshore.api_types.machines import EpochKind
from farshore.catalog import commands, epochs, failovers, machines, points, process_servers
from farshore.catalog.database import Catalog
from farshore.catalog.tables import EpochRow, PointRow
from farshore.model.errors import Fenced
from farshore.model.states import Direction, MachineState
from farshore.protection.granting import grant
from farshore.sites.port import Condition, FailoverId, Way

STRIDE = 1 if os.environ.get("FARSHORE_SOAK") else 9
SOURCE = "the-source"
AWAY, HOME, JOB = (f"{letter * 8}-0000-4000-8000-000000000000" for letter in "abc")


def job_of(home: Path) -> dict[str, Any]:
    return dict(outcome(home)["job"])


def ask(home: Path, hardware_id: str) -> EpochRow:
    """An agent on this hardware asks for the stream, of the process server that it is sent to."""
    catalog = Catalog(f"sqlite:///{home / 'catalog.sqlite'}")
    try:
        with catalog.writing() as tx:
            server = process_servers.get(tx, machines.get(tx, MACHINE).process_server or drill.SERVER)
            wanted = catalogs.request(
                run=hardware_id, kind=EpochKind.RESYNC, description=catalogs.description(hardware=hardware_id)
            )
            return grant(tx, machines.get(tx, MACHINE), wanted, server, 1)
    finally:
        catalog.close()


def set_state(home: Path, state: MachineState, **more: str | int) -> None:
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
    return fail_over_and_commit(tmp_path_factory.mktemp("places"), Way.SERVED)


@pytest.fixture(scope="module")
def committed_written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same at a site whose disks are written."""
    return fail_over_and_commit(tmp_path_factory.mktemp("written"), Way.WRITTEN)


def fail_over_and_commit(home: Path, way: Way) -> Path:
    drill.prepare(home)
    set_state(home, MachineState.PROTECTED, hardware_id=SOURCE)
    drill.request(home, AWAY, JOB, "failover")
    assert live(drill.Task(home, "failover", AWAY, JOB, way=way)) == 0
    assert live(drill.Task(home, "commit", AWAY, "commit", way=way)) == 0
    assert drill.place(home) == ("committed", "files", AWAY)
    return home


@pytest.fixture
def reprotected(committed: Path, tmp_path: Path) -> Path:
    """And the recovered machine is replicated from there."""
    home = Path(shutil.copytree(committed, tmp_path / "home"))
    set_state(home, MachineState.RESYNC)
    return home


def agent_asks(home: Path, hardware_id: str) -> threading.Thread:
    """As soon as it is granted the stream; an agent asks again and again."""

    def again() -> None:
        def granted() -> bool:
            try:
                ask(home, hardware_id)
            except Fenced:
                return False
            return True

        until(granted, "the grant", pause=0.05)

    thread = threading.Thread(target=again)
    thread.start()
    return thread


def policy(home: Path) -> str:
    """The policy that the machine follows."""
    catalog = Catalog(f"sqlite:///{home / 'catalog.sqlite'}")
    with catalog.reading() as tx:
        found = machines.get(tx, MACHINE).policy
    catalog.close()
    return found


def position(home: Path) -> str:
    catalog = Catalog(f"sqlite:///{home / 'catalog.sqlite'}")
    with catalog.reading() as tx:
        row = failovers.get(tx, AWAY)
        found = f"{row.point_epoch}:{row.point_sequence}"
    catalog.close()
    return found


def test_a_committed_machine_is_replicated_from_where_it_runs(committed: Path, tmp_path: Path) -> None:
    home = Path(shutil.copytree(committed, tmp_path / "home"))
    agent = agent_asks(home, AWAY)
    assert live(drill.Task(home, "reprotect", AWAY, "reprotect")) == 0
    agent.join()
    job = job_of(home)
    assert (job["state"], job["result"]) == (
        "succeeded",
        {"failover": AWAY, "epoch": 2, "kind": "resync", "parent": position(home)},
    )
    assert drill.place(home) == ("resync", "files", AWAY)
    assert policy(home) == "default-failback"
    # Asked for once more it changes nothing.
    assert live(drill.Task(home, "reprotect", AWAY, "once more")) == 0
    assert job_of(home)["result"]["epoch"] == 2
    assert policy(home) == "default-failback"
    # Who gives up what runs there leaves nobody the stream.
    assert live(drill.Task(home, "failover-delete", AWAY, "delete")) == 0
    assert drill.place(home) == ("unprotected", "", "")
    assert policy(home) == "default"


def test_an_agent_that_does_not_come_is_told_of_and_granted_the_stream_later(committed: Path, tmp_path: Path) -> None:
    home = Path(shutil.copytree(committed, tmp_path / "home"))
    assert live(drill.Task(home, "reprotect", AWAY, "reprotect", stream=0.0)) == 0
    assert "has not asked for its stream" in job_of(home)["error"]
    assert ask(home, AWAY).exact


def test_what_does_not_run_or_was_not_committed_is_not_replicated(committed: Path, tmp_path: Path) -> None:
    home = Path(shutil.copytree(committed, tmp_path / "home"))
    FileSite(home / "site", Fuse(0)).die(FailoverId(AWAY))
    assert live(drill.Task(home, "reprotect", AWAY, "reprotect")) == 0
    assert "does not run: it is stopped" in job_of(home)["error"]
    assert drill.place(home) == ("committed", "files", AWAY)
    set_state(home, MachineState.RESYNC, site="", owner="")
    assert live(drill.Task(home, "reprotect", AWAY, "elsewhere")) == 0
    assert "runs where it was enrolled, not at files" in job_of(home)["error"]
    drill.request(home, HOME, HOME, "test")
    assert live(drill.Task(home, "reprotect", HOME, "of a test")) == 0
    assert job_of(home)["error"] == "This test of web1 is requested."


@pytest.mark.parametrize("trouble", ["error", "kill"])
def test_a_reprotection_with_trouble_anywhere_is_granted_once(committed: Path, tmp_path: Path, trouble: str) -> None:
    for home, at in at_every_moment(committed, tmp_path, least=2):
        task = drill.Task(home, "reprotect", AWAY, "reprotect", die_at=at, passing=trouble == "error")
        agent = agent_asks(home, AWAY)
        live_to_the_end(task, dies=trouble == "kill")
        agent.join()
        assert job_of(home)["state"] == "succeeded"
        assert job_of(home)["result"]["epoch"] == 2
        assert drill.place(home) == ("resync", "files", AWAY)


def way_home(home: Path) -> drill.Task:
    drill.request(home, HOME, HOME, "failover", Direction.HOME)
    return drill.Task(home, "failover", HOME, HOME)


def test_a_source_that_wakes_after_the_commit_gets_no_stream(committed: Path, tmp_path: Path) -> None:
    home = Path(shutil.copytree(committed, tmp_path / "home"))
    elsewhere = "it runs at files"
    for hardware, words in ((SOURCE, elsewhere), ("", elsewhere), (AWAY, "is not replicated from files")):
        with pytest.raises(Fenced, match=words):
            ask(home, hardware)
    # Nor once the recovered machine is replicated from there: that one does.
    set_state(home, MachineState.RESYNC)
    for hardware in (SOURCE, "", "another-twin"):
        with pytest.raises(Fenced, match=f"runs at files on {AWAY}"):
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
    for home, at in at_every_moment(reprotected, tmp_path, least=11, stride=STRIDE):
        task = replace(way_home(home), die_at=at, refuse=refuse)
        assert live(task) == (-signal.SIGKILL if at else 0)
        state, site, owner = drill.place(home)
        assert (site, owner) == (("", "") if state == "failed-over" else ("files", AWAY))
        if at:
            assert live(replace(task, die_at=0)) == 0
        sites = FileSite(home / "site", Fuse(0))
        running = [one for one in sites.present() if sites.status(one).condition is Condition.RUNNING]
        assert running == [FailoverId(AWAY if refuse else HOME)]
        assert drill.place(home) == (("resync", "files", AWAY) if refuse else ("failed-over", "", ""))
        assert drill.standing(home, AWAY)[0] == ("committed" if refuse else "superseded")


@pytest.fixture
def sending(committed_written: Path, tmp_path: Path) -> Path:
    """The committed machine is replicated from where it runs, and its copy is whole."""
    return replicated(Path(shutil.copytree(committed_written, tmp_path / "home")))


def replicated(home: Path, hardware: str = "") -> Path:
    """``hardware``: of the agent that was granted the stream already; empty: one of AWAY's asks for it."""
    set_state(home, MachineState.RESYNC, policy="default-failback")
    if not hardware:
        ask(home, AWAY)
    catalog = Catalog(f"sqlite:///{home / 'catalog.sqlite'}")
    with catalog.writing() as tx:
        row = epochs.get(tx, MACHINE, 2)
        row.consistent, row.consistent_from = True, 0
        machines.set_state(machines.get(tx, MACHINE), MachineState.PROTECTED)
    catalog.close()
    return home


def failback(home: Path, **more: Any) -> drill.Task:
    drill.request(home, HOME, HOME, "failover", Direction.HOME)
    work = {"subject": str(MACHINE), "failover": HOME, "home": True}
    return replace(drill.Task(home, "failover", HOME, HOME, work=work, way=Way.WRITTEN), **more)


def agent_holds(home: Path) -> threading.Thread:
    """As an agent that freezes its machine, and whose point comes to be in the vault."""

    def cut() -> None:
        catalog = Catalog(f"sqlite:///{home / 'catalog.sqlite'}")

        def asked() -> bool:
            with catalog.reading() as tx:
                return bool(commands.open_commands(tx, MACHINE))

        until(asked, "the command", pause=0.02)
        with catalog.writing() as tx:
            points.record(tx, PointRow(id=HOME, machine=MACHINE, epoch=2, sequence=1, time=1, kind="app-consistent"))
        catalog.close()

    thread = threading.Thread(target=cut)
    thread.start()
    return thread


def test_a_failback_ends_with_the_machine_at_home_its_stream_granted_there_and_nothing_left_away(
    sending: Path,
) -> None:
    agent = agent_holds(sending)
    assert live(failback(sending, hold=60)) == 0
    agent.join()
    job = job_of(sending)
    assert (job["state"], job["result"].get("held")) == ("succeeded", True), job["error"]
    assert 0 <= job["result"]["downtime_seconds"] < 60
    assert drill.place(sending) == ("resync", "", "")
    assert drill.standing(sending, AWAY)[0] == "cleaned-up"
    assert drill.standing(sending, HOME)[0] == "committed"
    assert policy(sending) == "default"
    assert FileSite(sending / "site", Fuse(0)).present() == (HOME,)
    with pytest.raises(Fenced):
        ask(sending, AWAY)
    forward = ask(sending, HOME)
    assert (forward.kind, forward.exact) == ("resync", True), "only what differs travels"


def test_a_machine_that_cannot_be_held_still_is_shut_down(sending: Path) -> None:
    assert live(failback(sending, hold=1)) == 0
    assert job_of(sending)["result"]["held"] is False
    assert drill.place(sending) == ("resync", "", "")


def test_what_stands_in_the_way_of_a_failback_is_seen_before_anything_stops(
    sending: Path, committed: Path, tmp_path: Path
) -> None:
    served = replicated(Path(shutil.copytree(committed, tmp_path / "served")))
    assert live(failback(served, way=Way.SERVED)) == 0
    assert "must have its own" in job_of(served)["error"]
    set_state(sending, MachineState.RESYNC, line_after=2)
    assert live(failback(sending)) == 0
    assert "not in the vault" in job_of(sending)["error"]
    for home in (served, sending):
        assert FileSite(home / "site", Fuse(0)).status(FailoverId(AWAY)).condition is Condition.RUNNING
        assert drill.place(home)[1:] == ("files", AWAY)
        assert drill.standing(home, AWAY)[0] == "committed"
        assert FileSite(home / "site", Fuse(0)).read(FailoverId(AWAY))["starts"] == 1  # type: ignore[index]


def test_all_that_is_closed_on_the_way_home_is_told_before_anything_stops(sending: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        task = failback(sending, silent=0.0)
        forwarded(sending, HOME, port)
        with socket.create_server(("127.0.0.1", 0)) as closed:
            nobody = closed.getsockname()[1]
        home = Path(shutil.copytree(sending, tmp_path / "open"))
        gone = Path(shutil.copytree(sending, tmp_path / "gone"))
        away = Path(shutil.copytree(sending, tmp_path / "away"))
        assert live(replace(task, endpoint=nobody)) == 0
        error = job_of(sending)["error"]
        for words in (
            "its process server ps has been silent for",
            "dr.example port 443, which its agent will need, does not answer here (Connection refused)",
            f"port {port} of this host, which will be forwarded to it, is not free",
        ):
            assert words in error, error
        (gone / "vault").rename(gone / "elsewhere")
        assert live(replace(task, home=gone)) == 0
        assert "this host cannot read the vault" in job_of(gone)["error"]
        for one in (sending, gone):
            machine = FileSite(one / "site", Fuse(0)).read(FailoverId(AWAY))
            assert machine is not None
            assert machine["starts"] == 1, "it never stopped"
            assert drill.place(one)[1:] == ("files", AWAY)
        # What is there goes through; and from a far side that is lost nothing is asked.
        forwarded(home, HOME, 0)
        assert live(replace(task, home=home, silent=1e9, endpoint=port)) == 0
        assert job_of(home)["state"] == "succeeded", job_of(home)["error"]
        forwarded(away, HOME, 0)
        FileSite(away / "site", Fuse(0)).die(FailoverId(AWAY))
        assert live(replace(task, home=away, endpoint=port)) == 0
        assert job_of(away)["state"] == "succeeded", job_of(away)["error"]


def forwarded(home: Path, failover: str, port: int) -> None:
    """Have this port of the host forwarded to the machine; 0: none."""
    catalog = Catalog(f"sqlite:///{home / 'catalog.sqlite'}")
    with catalog.writing() as tx:
        failovers.get(tx, failover).forward = {str(port): 22} if port else {}
    catalog.close()


@pytest.mark.parametrize("trouble", ["kill", "error", "refusal"])
def test_a_failback_with_trouble_anywhere_ends_with_one_machine(sending: Path, tmp_path: Path, trouble: str) -> None:
    refuse = trouble == "refusal"
    for home, at in at_every_moment(sending, tmp_path, least=7, stride=STRIDE):
        task = failback(home, die_at=at, passing=trouble == "error", refuse=refuse)
        live_to_the_end(task, dies=trouble != "error")
        sites = FileSite(home / "site", Fuse(0))
        running = [one for one in sites.present() if sites.status(one).condition is Condition.RUNNING]
        assert running == [FailoverId(AWAY if refuse else HOME)]
        assert drill.place(home) == (("protected", "files", AWAY) if refuse else ("resync", "", ""))
        assert drill.standing(home, AWAY)[0] == ("committed" if refuse else "cleaned-up")
        assert policy(home) == ("default-failback" if refuse else "default")


def test_the_point_may_be_changed_after_the_commit(committed: Path, tmp_path: Path) -> None:
    """A new line of the machine's life begins; the former one stays in the vault, and its machine at the site until
    the new one is final."""
    home = Path(shutil.copytree(committed, tmp_path / "home"))
    drill.request(home, HOME, HOME, "failover")
    assert live(drill.Task(home, "failover", HOME, HOME)) == 0
    assert drill.place(home) == ("failed-over", "files", HOME)
    assert drill.standing(home, AWAY)[0] == "superseded"
    assert live(drill.Task(home, "commit", HOME, "commit again")) == 0
    assert drill.place(home) == ("committed", "files", HOME)
    assert drill.standing(home, AWAY)[0] == "cleaned-up"
    refused = Path(shutil.copytree(committed, tmp_path / "refused"))
    drill.request(refused, HOME, HOME, "failover")
    assert live(drill.Task(refused, "failover", HOME, HOME, refuse=True)) == 0
    assert drill.place(refused) == ("committed", "files", AWAY), "as if nothing had been asked for"
    assert drill.standing(refused, AWAY) == ("committed", "committed")


def test_nothing_is_brought_home_that_is_there(reprotected: Path) -> None:
    set_state(reprotected, MachineState.RESYNC, site="", owner="")
    assert live(way_home(reprotected)) == 0
    assert job_of(reprotected)["error"] == "web1 runs where it was enrolled."
