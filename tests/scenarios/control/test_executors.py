"""Whose jobs a configuration server takes for its own when it starts: with a release before, and beside others."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.scenarios.clusters import cluster
from tests.waiting import PATIENCE, until

from farshore.configuration_server import installation
from farshore.configuration_server.jobs.engine import ALONE
from farshore.configuration_server.settings import Settings
from farshore.model.errors import Malformed

A, B, C = (f"{letter * 8}-0000-4000-8000-000000000000" for letter in "abc")


class Worker:
    """The jobs of a server, running."""

    def __init__(self, url: str, executor: str, folder: Path) -> None:
        command = [sys.executable, "-m", "tests.scenarios.control.worker", url, executor, str(folder)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, *words: str) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(" ".join(words) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def kill(self) -> None:
        self._process.kill()
        self._process.communicate(timeout=PATIENCE)


Start = Callable[[str], Worker]


class Place:
    """One job database, its servers, and what its jobs did."""

    def __init__(self, url: str, folder: Path, undo: contextlib.ExitStack) -> None:
        self.url, self.folder, self._undo = url, folder, undo

    def start(self, executor: str) -> Worker:
        made = Worker(self.url, executor, self.folder)
        self._undo.callback(made.kill)
        return made

    def begun(self, job: str) -> list[str]:
        path = self.folder / job
        return path.read_text().splitlines() if path.exists() else []

    def begin(self, worker: Worker, executor: str, job: str) -> None:
        """A job, until it is in its second step."""
        worker.ask("start", job)
        until(lambda: self.begun(job) == [f"first {executor}", f"second {executor}"], f"{job} in its second step")

    def let_end(self, worker: Worker, job: str) -> None:
        (self.folder / f"{job}.go").touch()
        until(lambda: worker.ask("show", job)["state"] == "succeeded", f"the end of {job}")


@pytest.fixture
def undo() -> Iterator[contextlib.ExitStack]:
    with contextlib.ExitStack() as stack:
        yield stack


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.root)])
def place(request: pytest.FixtureRequest, tmp_path: Path, undo: contextlib.ExitStack) -> Place:
    url = f"sqlite:///{tmp_path / 'jobs.sqlite'}"
    if request.param == "postgresql":
        url = undo.enter_context(cluster(connections=60))
    return Place(url, tmp_path, undo)


def test_a_job_of_a_server_without_an_id_of_its_own_goes_on(place: Place) -> None:
    """As all servers were before."""
    before = place.start(ALONE)
    place.begin(before, ALONE, "old")
    before.kill()
    after = place.start(A)
    until(lambda: place.begun("old")[2:] == [f"second {A}"], "the second step, and not the first")
    place.let_end(after, "old")
    assert after.ask("show", "old")["executor"] == A


def test_a_server_with_a_database_of_its_own_goes_on_with_all_jobs_in_it(tmp_path: Path, undo: Any) -> None:
    """Where its id was lost, nobody else can be running them."""
    place = Place(f"sqlite:///{tmp_path / 'jobs.sqlite'}", tmp_path, undo)
    before = place.start(A)
    place.begin(before, A, "mine")
    before.kill()
    place.let_end(place.start(B), "mine")


@pytest.mark.root
def test_servers_of_one_database_take_only_their_own_until_one_is_said_to_be_gone(tmp_path: Path, undo: Any) -> None:
    place = Place(undo.enter_context(cluster(connections=60)), tmp_path, undo)
    first, second = place.start(A), place.start(B)
    place.begin(first, A, "long")
    place.begin(second, B, "mine")
    second.kill()

    second = place.start(B)
    until(lambda: len(place.begun("mine")) == 3, "B's own job goes on")
    assert place.begun("mine")[2].startswith("second "), "at whichever server took it"
    place.let_end(second, "mine")
    shown = second.ask("show", "long")
    assert (shown["state"], shown["executor"]) == ("running", A)
    assert place.begun("long") == [f"first {A}", f"second {A}"], "what runs elsewhere is left alone"

    first.kill()
    assert second.ask("recover", B) == "wrong-state"
    assert second.ask("recover", C) == "not-found"
    assert second.ask("recover", A) == ["long"]
    until(lambda: place.begun("long")[2:] == [f"second {B}"], "A's job goes on at B")
    assert second.ask("recover", A) == "not-found", "it is B's now"
    place.let_end(second, "long")
    assert place.begun("long") == [f"first {A}", f"second {A}", f"second {B}"]


def test_an_id_is_made_once_and_kept(tmp_path: Path) -> None:
    one, other = (Settings(home=tmp_path / name) for name in ("one", "other"))
    for settings in (one, other):
        settings.home.mkdir()
    assert installation.executor(one) == installation.executor(one) != installation.executor(other)
    (one.home / installation.EXECUTOR_FILE).write_text("configuration-server\n")
    with pytest.raises(Malformed, match="id"):
        installation.executor(one)
