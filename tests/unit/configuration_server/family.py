"""A job with children and added steps, on the real engine; and one life of a server that works on it.

A leaf writes a line into ``log`` for each of its steps, and waits in its second one where it is told to. Dying happens
around the n-th commit of the job database: so before and after everything that the engine writes down.
"""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import sqlalchemy
from dbos import DBOS
from tests.waiting import until

from farshore.api_types.jobs import Job, OnFailure
from farshore.configuration_server.jobs.engine import JobEngine
from farshore.durable.children import Child, run_children
from farshore.durable.jobs import JobDefinition, Request, Result
from farshore.durable.outcomes import ENDED
from farshore.durable.planning import add_steps
from farshore.durable.steps import USUAL, run_step
from farshore.model.errors import Cancelled, Refused, WrongState
from farshore.model.identifiers import JobId

LOOK, EXTRA, SUM = "look", "extra", "sum up"


@dataclass
class Family:
    """The definitions over a folder. ``log`` tells what was done and asked for, in that order."""

    folder: Path
    definitions: list[JobDefinition] = field(default_factory=list)

    def __post_init__(self) -> None:
        leaf = self._leaf()
        self.definitions += [leaf, self._family(leaf)]

    def note(self, line: str) -> None:
        with (self.folder / "log").open("a") as file:
            file.write(f"{line}\n")

    def log(self) -> list[str]:
        path = self.folder / "log"
        return path.read_text().splitlines() if path.exists() else []

    def _leaf(self) -> JobDefinition:
        def one(name: str) -> None:
            self.note(f"one {name}")

        def two(request: Request) -> None:
            name = request["subject"]
            while request.get("wait") and not (self.folder / f"go-{name}").exists():
                if (self.folder / f"cancel-{name}").exists():
                    raise Cancelled(f"{name} was cancelled.", remedy="Ask again.")
                time.sleep(0.01)
            self.note(f"two {name}")
            if request.get("fail"):
                raise Refused(f"{name} cannot.", remedy="Do without it.")

        @DBOS.workflow(name="leaf")
        def run(request: Request) -> Result:
            run_step("one", USUAL, one, str(request["subject"]))
            run_step("two", USUAL, two, request)
            return {"of": request["subject"]}

        def cancel(request: Request) -> None:
            name = request["subject"]
            self.note(f"asked {name}")
            if request.get("stubborn"):
                raise WrongState(f"{name} goes to its end.", remedy="Wait for it.")
            (self.folder / f"cancel-{name}").touch()

        return JobDefinition("leaf", run, ("one", "two"), cancel)

    def _family(self, leaf: JobDefinition) -> JobDefinition:
        def prepare(request: Request) -> None:
            self.note(f"prepare {request['subject']}")
            if request.get("unready"):
                raise Refused(f"{request['subject']} is not ready.", remedy="Make it so.")

        def look(hold: bool) -> None:
            self.note("look")
            while hold and not (self.folder / "go-look").exists():
                time.sleep(0.01)

        @DBOS.workflow(name="family")
        def run(request: Request) -> Result:
            run_step(LOOK, USUAL, look, bool(request.get("hold")))
            if request.get("extra"):
                add_steps([EXTRA])
                run_step(EXTRA, USUAL, self.note, "extra")
            ended = run_children(
                [Child(f"do {one['subject']}", leaf, one, lambda one=one: prepare(one)) for one in request["leaves"]],  # type: ignore[misc]
                at_once=request.get("at_once", 1),
                on_failure=OnFailure(request.get("on_failure", "go-on")),
            )
            run_step(SUM, USUAL, self.note, "sum up")
            return {
                "cancelled": ended.cancelled,
                "states": [one.state.value for one in ended.outcomes],
                "results": [one.result.get("of") for one in ended.outcomes],
                "errors": [one.error for one in ended.outcomes],
            }

        return JobDefinition("family", run, (LOOK, SUM), has_children=True)


def live(folder: Path, job: str, request: Request, die_at: int, cancel: str = "") -> None:
    """Work until the job has ended. ``cancel``: ask it to end once the log holds that line. Leaves ``outcome.json``."""
    family = Family(folder)
    engine = JobEngine(f"sqlite:///{folder / 'jobs.sqlite'}", family.definitions)
    engine.launch()
    passed, lock = 0, threading.Lock()

    def moment(_connection: Any) -> None:
        nonlocal passed
        with lock:
            passed += 1
            if passed == die_at:
                os.kill(os.getpid(), signal.SIGKILL)

    sqlalchemy.event.listen(engine._dbos._sys_db.engine, "commit", moment)  # before it takes effect
    engine.start("family", request, JobId(job))
    if cancel:
        until(lambda: cancel in family.log(), cancel, pause=0.01)
        if show(engine, job).state not in ENDED:
            engine.cancel(JobId(job))
    until(lambda: show(engine, job).state in ENDED, "the job's end", pause=0.01)
    found = show(engine, job)
    children = engine.listed(parent=JobId(job))
    everything = {
        "moments": passed,
        "job": found.model_dump(mode="json"),
        "children": [child.model_dump(mode="json") for child in children],
    }
    (folder / "outcome.json").write_text(json.dumps(everything))
    os._exit(0)


def show(engine: JobEngine, job: str) -> Job:
    return engine.show(JobId(job))
