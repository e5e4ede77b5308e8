"""Recovery jobs with real machines and exports, killed, failing and cancelled at every moment between two effects.

test_jobs_killed.py does the same in the gate, with a site and exports that are files. The guests fit into a boot
sector.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.contract.guests import POLITE
from tests.contract.places import processes_of, short_folder
from tests.scenarios.recovery import drill
from tests.scenarios.recovery.lives import PROCESSES, live, outcome
from tests.waiting import until

from farshore.export.launch import ExportLauncher
from farshore.sites.port import Way

pytestmark = [pytest.mark.soak, pytest.mark.root, pytest.mark.timeout(3600)]


@contextmanager
def home() -> Iterator[Path]:
    """A home with a protected machine that boots; what still runs of it ends with the block."""
    with short_folder() as folder:
        drill.prepare(folder, boot=POLITE)
        try:
            yield folder
        finally:
            end(folder)


def end(folder: Path) -> None:
    for failover in (folder / "failovers").iterdir() if (folder / "failovers").exists() else ():
        for process in processes_of(failover.name):
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        ExportLauncher().stop(failover)


def console(folder: Path, failover: str) -> str:
    found = folder / "site" / failover / "console.log"
    return found.read_text(errors="replace") if found.exists() else ""


def killed_everywhere(kind: str, prepared: Path, failover: str, ready: Any) -> Iterator[Path]:
    """For every moment of a job on ``failover``: a home in which it was killed there, and finished by the next server.
    ``ready``: makes a copy of the prepared home fit, before the job is asked for."""
    moments, at = 1, 0
    while at <= moments:
        with short_folder() as folder:
            copy = Path(shutil.copytree(prepared, folder / "h", ignore=shutil.ignore_patterns("*.sock")))
            job = str(uuid.uuid4())
            try:
                ready(copy, job)
                task = drill.Task(copy, kind, failover, job, die_at=at, guests=True)
                assert live(task) == (-signal.SIGKILL if at else 0), f"moment {at} of {moments}"
                if at:
                    assert live(drill.Task(copy, kind, failover, job, guests=True)) == 0
                else:
                    moments = int(outcome(copy)["moments"])
                    assert moments > 1
                yield copy
            finally:
                end(copy)
        at += 1


def test_a_failover_killed_anywhere_brings_up_one_guest() -> None:
    failover = str(uuid.uuid4())

    def ready(copy: Path, job: str) -> None:
        drill.request(copy, failover, job, "failover")

    with home() as prepared:
        for copy in killed_everywhere("failover", prepared, failover, ready):
            job = outcome(copy)["job"]
            assert job["state"] == "succeeded", job
            assert drill.standing(copy, failover) == ("running", "failed-over")
            assert len(processes_of(failover)) == 1
            until(lambda copy=copy: "up" in console(copy, failover), "the guest")  # type: ignore[misc]
            assert ExportLauncher().serving(copy / "failovers" / failover)


@pytest.mark.parametrize("kind", ["commit", "cleanup"])
def test_its_end_killed_anywhere_leaves_what_it_should(kind: str) -> None:
    failover = str(uuid.uuid4())
    asked = "failover" if kind == "commit" else "test"
    brought_up = "failover" if kind == "commit" else "test-failover"

    def ready(copy: Path, _job: str) -> None:
        job = str(uuid.uuid4())
        drill.request(copy, failover, job, asked)
        assert live(drill.Task(copy, brought_up, failover, job, guests=True)) == 0
        assert drill.standing(copy, failover)[0] == "running"

    with home() as prepared:
        for copy in killed_everywhere(kind, prepared, failover, ready):
            assert outcome(copy)["job"]["state"] == "succeeded"
            expected = ("committed", "committed") if kind == "commit" else ("cleaned-up", "protected")
            assert drill.standing(copy, failover) == expected
            assert len(processes_of(failover)) == int(kind == "commit")
            assert ExportLauncher().serving(copy / "failovers" / failover) == (kind == "commit")


@pytest.mark.parametrize("trouble", ["error", "cancel"])
def test_trouble_anywhere_leaves_one_guest_or_none(trouble: str) -> None:
    with home() as folder:
        process = PROCESSES.Process(target=drill.one_after_another, args=(folder, trouble, Way.SERVED, True))
        process.start()
        process.join(3000)
        assert process.exitcode == 0
        found = list(json.loads((folder / "outcomes.json").read_text()))
        assert len(found) > 10
        running: list[str] = []
        for one in found:
            if one["job"] == "succeeded":
                assert one["standing"] == ["running", "failed-over"]
                running = [one["failover"]]
            else:
                assert trouble == "cancel"
                assert one["job"] == "cancelled"
                assert one["standing"] == ["cancelled", "failed-over" if running else "protected"]
            assert one["running"] == one["standing at its site"] == running
            earlier = [other["failover"] for other in found if other["failover"] not in running]
        assert len(processes_of(running[0])) == 1
        assert not [failover for failover in earlier if processes_of(failover)]
