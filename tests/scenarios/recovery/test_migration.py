"""A migration: a failover whose commit ends the machine's protection and takes its agent off, with trouble anywhere.

The gate takes every third moment of a kill, the long set each one, of an error too.
"""

from __future__ import annotations

import os
import shutil
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from tests.scenarios.recovery import drill
from tests.scenarios.recovery.lives import at_every_moment, live, live_to_the_end
from tests.scenarios.recovery.test_places import AWAY, HOME, SOURCE, ask, job_of, set_state
from tests.unit.vault.synthetic import MACHINE
from tests.waiting import until

from farshore.api_types.commands import CommandFailure, CommandResult, UninstallResult
from farshore.catalog import epochs, failovers, machines, users
from farshore.catalog.database import Catalog
from farshore.catalog.tables import CertificateRow
from farshore.model.errors import WrongState
from farshore.model.states import MachineState
from farshore.protection.commands import answer, offered

STRIDE = 1 if os.environ.get("FARSHORE_SOAK") else 3
GONE = CommandResult(payload=UninstallResult(removed=["/opt/farshore"], stays=["/etc/farshore: hooks of yours"]))
UNABLE = CommandResult(failure=CommandFailure(code="refused", message="The disk is full.", remedy="Make room."))


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The machine was failed over, one way, and that is not final."""
    home = tmp_path_factory.mktemp("migration")
    drill.prepare(home)
    set_state(home, MachineState.PROTECTED, hardware_id=SOURCE, run="r")
    drill.request(home, AWAY, AWAY, "failover")
    catalog = opened(home)
    with catalog.writing() as tx:
        row = failovers.get(tx, AWAY)
        row.request = {**row.request, "migrate": True}
        users.record_certificate(
            tx, CertificateRow(serial="1f", kind="machine", subject=str(MACHINE), issued=1, expires=2)
        )
    catalog.close()
    assert live(drill.Task(home, "failover", AWAY, AWAY)) == 0
    assert drill.place(home) == ("failed-over", "files", AWAY)
    return home


def opened(home: Path) -> Catalog:
    return Catalog(f"sqlite:///{home / 'catalog.sqlite'}")


def commit(home: Path, **more: object) -> drill.Task:
    work = {"subject": str(MACHINE), "failover": AWAY, "migrate": True}
    return replace(drill.Task(home, "commit", AWAY, "commit", work=work), **more)  # type: ignore[arg-type]


def agent_answers(home: Path, result: CommandResult) -> threading.Thread:
    """As the recovered machine's agent; the old source's, which held the stream last, hears of nothing."""

    def again() -> None:
        catalog = opened(home)

        def heard() -> bool:
            with catalog.writing() as tx:
                machine = machines.commanded(tx, MACHINE)
                assert offered(tx, machine, "r", 1, SOURCE).commands == []
                found = offered(tx, machine, "twin", 0, AWAY).commands
                for one in found:
                    answer(tx, MACHINE, one.id, result, 1)
            return bool(found)

        until(heard, "the command", pause=0.05)
        catalog.close()

    thread = threading.Thread(target=again)
    thread.start()
    return thread


def is_let_in(home: Path) -> bool:
    """Whether the machine's certificate opens anything."""
    catalog = opened(home)
    with catalog.reading() as tx:
        found = users.certificate(tx, "1f")
        assert found is not None
        revoked = found.revoked
    catalog.close()
    return not revoked


def test_a_migration_ends_with_no_protection_no_agent_and_all_points(running: Path, tmp_path: Path) -> None:
    home = Path(shutil.copytree(running, tmp_path / "home"))
    agent = agent_answers(home, GONE)
    assert live(commit(home)) == 0
    agent.join()
    job = job_of(home)
    assert job["state"] == "succeeded", job["error"]
    assert job["result"]["agent"] == {"removed": ["/opt/farshore"], "stays": ["/etc/farshore: hooks of yours"]}
    assert [step["name"] for step in job["steps"]][-2:] == ["end its protection", "take its agent off"]
    assert drill.place(home) == ("unprotected", "files", AWAY)
    assert not is_let_in(home)
    catalog = opened(home)
    with catalog.reading() as tx:
        machine = machines.get(tx, MACHINE)
        assert (machine.protect, epochs.get(tx, MACHINE, 1).closed > 0) == (False, True)
    catalog.close()
    for hardware in (SOURCE, AWAY):
        with pytest.raises(WrongState, match="is not protected"):
            ask(home, hardware)
    # It is one way; and its points are there, to be tried or restored, as long as its policy says.
    assert live(drill.Task(home, "reprotect", AWAY, "back")) == 0
    assert "was migrated to files" in job_of(home)["error"]
    drill.request(home, HOME, HOME, "test")
    assert live(drill.Task(home, "test-failover", HOME, HOME)) == 0
    assert job_of(home)["state"] == "succeeded", job_of(home)["error"]
    assert drill.left_of(home, AWAY) == ["committed", "running", True]


def test_an_agent_that_is_silent_or_cannot_is_told_of_and_the_protection_has_ended(
    running: Path, tmp_path: Path
) -> None:
    silent = Path(shutil.copytree(running, tmp_path / "silent"))
    assert live(commit(silent, stream=0.0)) == 0
    assert "it will do so when it reaches this server" in job_of(silent)["error"]
    agent_answers(silent, GONE).join()  # the command is still open
    unable = Path(shutil.copytree(running, tmp_path / "unable"))
    agent = agent_answers(unable, UNABLE)
    assert live(commit(unable)) == 0
    agent.join()
    assert "did not remove itself: The disk is full." in job_of(unable)["error"]
    unknown = Path(shutil.copytree(running, tmp_path / "unknown"))
    assert live(replace(commit(unknown), kind="commit", work=None)) == 0, "a commit without the mark"
    assert drill.place(unknown) == ("committed", "files", AWAY)
    for home in (silent, unable):
        assert drill.place(home) == ("unprotected", "files", AWAY)
    assert not is_let_in(silent), "it was taken off in the end, and its certificate with it"
    assert is_let_in(unable)


@pytest.mark.parametrize("trouble", ["kill", pytest.param("error", marks=pytest.mark.soak)])
def test_a_migration_with_trouble_anywhere_goes_to_its_end(running: Path, tmp_path: Path, trouble: str) -> None:
    for home, at in at_every_moment(running, tmp_path, least=6, stride=STRIDE):
        task = commit(home, die_at=at, passing=trouble == "error")
        agent = agent_answers(home, GONE)
        live_to_the_end(task, dies=trouble == "kill")
        agent.join()
        assert job_of(home)["state"] == "succeeded", (at, job_of(home)["error"])
        assert drill.place(home) == ("unprotected", "files", AWAY)
        assert not is_let_in(home)
