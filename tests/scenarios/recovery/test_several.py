"""Several machines in one request: killed anywhere, cancelled, and refused, each ends in a state that is defined.

The gate takes every eleventh moment of a kill, the long set each one.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from tests.file_site import FileSite, Fuse
from tests.scenarios.recovery import drill
from tests.scenarios.recovery.lives import PROCESSES, at_every_moment, live, live_to_the_end, outcome

from farshore.catalog import failovers, machines
from farshore.catalog.database import Catalog
from farshore.catalog.tables import FailoverRow
from farshore.configuration_server.jobs.engine import JobEngine
from farshore.durable.children import child_job
from farshore.model.states import FailoverState, MachineState
from farshore.recovery.jobs import recovery_jobs
from farshore.recovery.requests import start_requested
from farshore.recovery.several import SEVERAL

NAMES = ("db1", "web1", "web2")
JOB = "11111111-0000-4000-8000-000000000000"
FAILOVERS = tuple(f"{number}0000000-0000-4000-8000-000000000000" for number in range(1, 4))
STRIDE = 1 if os.environ.get("FARSHORE_SOAK") else 11


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("several")
    drill.prepare(home, NAMES)
    return home


@pytest.fixture
def home(prepared: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(prepared, tmp_path / "home"))


def work(names: tuple[str, ...] = NAMES, **more: Any) -> dict[str, Any]:
    members = [
        {
            "machine": drill.machine_id(number),
            "name": name,
            "failover": FAILOVERS[number],
            "request": {"kind": "failover", "site": "files"},
        }
        for number, name in enumerate(NAMES)
        if name in names
    ]
    return {"subject": ", ".join(names), "actor": "user/a", "kind": "failover", "members": members, "at_once": 1,
            "on_failure": "go-on", **more}  # fmt: skip


def standing(home: Path, number: int) -> tuple[str, str]:
    catalog = Catalog(f"sqlite:///{home / 'catalog.sqlite'}")
    with catalog.reading() as tx:
        row = tx.get(FailoverRow, FAILOVERS[number])
        found = row.state if row is not None else "", machines.get(tx, drill.machine_id(number)).state
    catalog.close()
    return found


def test_several_failovers_killed_anywhere_bring_up_each_machine_once(prepared: Path, tmp_path: Path) -> None:
    for home, at in at_every_moment(prepared, tmp_path, least=21, stride=STRIDE):
        live_to_the_end(drill.Task(home, SEVERAL, "", JOB, die_at=at, work=work(("db1", "web1"))))
        job = outcome(home)["job"]
        assert job["state"] == "succeeded", job
        assert job["result"] == {"failovers": {"db1": FAILOVERS[0], "web1": FAILOVERS[1]}}
        steps = [(step["name"], step["state"], step["job"]) for step in job["steps"]]
        names = ("fail over db1", "fail over web1")
        assert steps == [(name, "succeeded", child_job(JOB, name)) for name in names]
        site = FileSite(home / "site", Fuse(0))
        for number in range(2):
            assert standing(home, number) == ("running", "failed-over")
        assert sorted(site.present()) == sorted(FAILOVERS[:2])


@pytest.mark.parametrize(("policy", "last"), [("go-on", "running"), ("stop", "")])
def test_a_machine_that_does_not_come_up_takes_none_with_it(home: Path, policy: str, last: str) -> None:
    task = drill.Task(home, SEVERAL, FAILOVERS[1], JOB, refuse=True, work=work(on_failure=policy))
    assert live(task) == 0
    job = outcome(home)["job"]
    assert job["state"] == "failed"
    assert "web1 (There is no room for it.)" in job["error"]
    assert standing(home, 0) == ("running", "failed-over")
    assert standing(home, 1) == ("failed", "protected")
    assert standing(home, 2) == (last, "failed-over" if last else "protected")


def test_cancelling_undoes_what_has_not_come_up(home: Path) -> None:
    process = PROCESSES.Process(target=drill.cancelled_in_its_second, args=(home, SEVERAL, JOB, work()))
    process.start()
    process.join(900)
    assert process.exitcode == 0
    job = outcome(home)["job"]
    assert job["state"] == "cancelled"
    assert job["error"] == "1 of 3 machines had come up, and stay."
    assert [step["state"] for step in job["steps"]] == ["succeeded", "cancelled", "cancelled"]
    assert standing(home, 0) == ("running", "failed-over")
    assert standing(home, 1) == ("cancelled", "protected")
    assert standing(home, 2) == ("", "protected")
    assert FileSite(home / "site", Fuse(0)).present() == (FAILOVERS[0],)


def test_what_a_job_asked_for_is_started_by_that_job_alone(home: Path) -> None:
    """A server that died between the record and the child leaves the record: no other job is made of it, and an upgrade
    that stops the parent settles it."""
    context = drill.context(home, Fuse(0))
    with context.catalog.writing() as tx:
        row = FailoverRow(id=FAILOVERS[0], machine=drill.machine_id(0), kind="failover", state="requested",
                          site="files", job="a", parent=JOB, request={}, requested=1)  # fmt: skip
        failovers.add(tx, row)

    class NoJobs(JobEngine):
        def __init__(self) -> None: ...

    start_requested(NoJobs(), context.catalog)
    (several,) = [one for one in recovery_jobs(context) if one.kind == SEVERAL]
    assert several.stopped is not None
    for _ in range(2):
        several.stopped(JOB, {})
    assert standing(home, 0) == (FailoverState.FAILED.value, MachineState.PROTECTED.value)
