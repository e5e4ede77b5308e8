"""A failover that shuts its source down, its server killed at every moment: one machine comes up, with nothing lost."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.scenarios.recovery import drill
from tests.scenarios.recovery.lives import at_every_moment, live, live_to_the_end, outcome
from tests.unit.vault.synthetic import MACHINE
from tests.waiting import until

from farshore.api_types.commands import CommandResult, ShutDownResult
from farshore.catalog import commands, failovers, machines, points
from farshore.catalog.database import Catalog
from farshore.catalog.tables import PointRow
from farshore.model.commands import CommandKind, CommandState
from farshore.model.errors import NotFound
from farshore.protection.commands import answer

FAILOVER = "33333333-3333-4333-8333-333333333333"
JOB = "44444444-4444-4444-8444-444444444444"
STRIDE = 1 if drill.SOAK else 3


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("shutdown")
    drill.prepare(home)
    catalog = Catalog(f"sqlite:///{home / 'catalog.sqlite'}")
    with catalog.writing() as tx:
        machines.get(tx, MACHINE).last_seen = 1 << 62  # it is heard of all the time
    catalog.close()
    return home


@contextmanager
def source(home: Path) -> Iterator[None]:
    """An agent that shuts its machine down when it is asked to, once."""
    ending = threading.Event()

    def obey() -> None:
        catalog = Catalog(f"sqlite:///{home / 'catalog.sqlite'}")

        def asked() -> bool:
            with catalog.reading() as tx:
                kinds = [row.kind for row in commands.open_commands(tx, MACHINE)]
            return kinds == [CommandKind.SHUT_DOWN.value] or ending.is_set()

        until(asked, "the command", pause=0.02)
        if not ending.is_set():
            with catalog.writing() as tx:
                result = CommandResult(payload=ShutDownResult(epoch=1, sequence=12, time=1))
                answer(tx, str(MACHINE), FAILOVER, result, 2)
                row = PointRow(id=FAILOVER, machine=MACHINE, epoch=1, sequence=12, time=1, kind="app-consistent")
                points.record(tx, row)
        catalog.close()

    thread = threading.Thread(target=obey)
    thread.start()
    try:
        yield
    finally:
        ending.set()
        thread.join()


def test_a_server_killed_anywhere_brings_up_one_machine_of_a_source_that_was_shut_down_once(
    prepared: Path, tmp_path: Path
) -> None:
    work = {"subject": str(MACHINE), "failover": FAILOVER, "shut_down": True}
    for home, at in at_every_moment(prepared, tmp_path, least=1, stride=STRIDE):
        drill.request(home, FAILOVER, JOB, "failover", shutdown="require")
        with source(home):
            live_to_the_end(drill.Task(home, "failover", FAILOVER, JOB, die_at=at, work=work))
        job = outcome(home)["job"]
        assert (job["state"], job["result"]["position"]) == ("succeeded", "1:12"), job
        assert "shut the source down" in [step["name"] for step in job["steps"]]
        assert drill.standing(home, FAILOVER) == ("running", "failed-over")
        catalog = Catalog(f"sqlite:///{home / 'catalog.sqlite'}")
        with catalog.reading() as tx:
            found = failovers.get(tx, FAILOVER).evidence or {}
        catalog.close()
        assert found["rpo_seconds"] == 0.0
        assert "was shut down; its last position is 1:12" in found["shutdown"]


def test_a_source_that_refuses_keeps_running_and_its_copy_is_not_brought_up(prepared: Path, tmp_path: Path) -> None:
    """Nobody answers: the machine has been silent for long."""
    home = Path(shutil.copytree(prepared, tmp_path / "home"))
    catalog = Catalog(f"sqlite:///{home / 'catalog.sqlite'}")
    with catalog.writing() as tx:
        machines.get(tx, MACHINE).last_seen = 1
    drill.request(home, FAILOVER, JOB, "failover", shutdown="require")
    work = {"subject": str(MACHINE), "failover": FAILOVER, "shut_down": True}
    assert live(drill.Task(home, "failover", FAILOVER, JOB, work=work)) == 0
    job = outcome(home)["job"]
    assert job["state"] == "failed"
    assert "was not shut down: its agent has said nothing" in job["error"]
    assert drill.standing(home, FAILOVER) == ("failed", "protected")
    with catalog.reading() as tx:
        assert commands.get(tx, FAILOVER).state == CommandState.WITHDRAWN.value
        with pytest.raises(NotFound):
            points.get(tx, MACHINE, FAILOVER)
    catalog.close()
