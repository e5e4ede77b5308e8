"""A server whose failovers meet one bad case after another, in a process of its own: DBOS is one a process."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.file_site import FileSite, Fuse
from tests.scenarios.recovery import drill
from tests.waiting import until

from farshore.api_types.failovers import FailoverRequest
from farshore.catalog import failovers
from farshore.configuration_server.jobs.engine import JobEngine
from farshore.model.errors import FarshoreError, NoSpace, Refused
from farshore.model.identifiers import JobId, new_id
from farshore.recovery.asking import ask_for
from farshore.recovery.context import RecoveryContext
from farshore.recovery.jobs import recovery_jobs
from farshore.sites.port import FailoverId, RecoveredMachine, RecoveryOrder

PANIC = "Kernel panic - not syncing: VFS: Unable to mount root fs on unknown-block(0,0)\n"


class BadSite(FileSite):
    """A site with a console at which the call ``bad`` raises ``error``; nothing in its machines answers."""

    bad = ""
    error: FarshoreError | None = None
    says = ""

    def check(self, order: RecoveryOrder) -> None:
        self._meet("check")
        super().check(order)

    def create(self, order: RecoveryOrder) -> None:
        self._meet("create")
        super().create(order)

    def start(self, failover: FailoverId) -> RecoveredMachine:
        self._meet("start")
        self.console(failover).write_text(self.says)
        return super().start(failover)

    def answers(self, failover: FailoverId, port: int) -> bool:
        return False

    def console(self, failover: FailoverId) -> Path:
        return self.folder / f"{failover}.console"

    def trim_console(self, failover: FailoverId) -> None:
        pass

    def destroy(self, failover: FailoverId) -> None:
        super().destroy(failover)
        self.console(failover).unlink(missing_ok=True)

    def _meet(self, call: str) -> None:
        if self.error is not None and self.bad == call:
            raise self.error


@dataclasses.dataclass
class World:
    home: Path
    site: BadSite
    context: RecoveryContext
    engine: JobEngine

    def run(self, **request: Any) -> dict[str, Any]:
        """Fail the machine over; how that ended."""
        failover, job = str(new_id()), str(new_id())
        wanted = FailoverRequest.model_validate({"kind": "failover", "site": "files", **request})
        with self.context.catalog.writing() as tx:
            now = self.context.clock.now()
            ask_for(tx, str(drill.MACHINE), wanted, failover=failover, job=job, now=now, actor="somebody")
        self.engine.start("failover", {"subject": str(drill.MACHINE), "failover": failover}, JobId(job))
        until(lambda: self.engine.show(JobId(job)).state in drill.ENDED, "the job's end", pause=0.02)
        ended = self.engine.show(JobId(job))
        with self.context.catalog.reading() as tx:
            row = failovers.get(tx, failover)
            found = {"state": row.state, "message": row.message, "evidence": dict(row.evidence)}
        console = self.context.folder / "consoles" / f"{failover}.log"
        return {
            **found,
            "job": ended.state.value,
            "error": ended.error,
            "remedy": ended.remedy,
            "machine": drill.standing(self.home, failover)[1],
            "left": drill.left_of(self.home, failover)[1:],
            "console": console.read_text() if console.exists() else "",
        }


@contextmanager
def site_fails(world: World, call: str, error: FarshoreError) -> Iterator[dict[str, Any]]:
    world.site.bad, world.site.error = call, error
    yield {}
    world.site.error = None


@contextmanager
def panic(world: World) -> Iterator[dict[str, Any]]:
    world.site.says = PANIC
    yield {"forward": {4022: 22}}
    world.site.says = ""


@contextmanager
def vault_gone(world: World) -> Iterator[dict[str, Any]]:
    shutil.move(world.home / "vault", world.home / "away")
    yield {}
    shutil.rmtree(world.home / "vault", ignore_errors=True)
    shutil.move(world.home / "away", world.home / "vault")


@contextmanager
def port_in_use(_world: World) -> Iterator[dict[str, Any]]:
    with socket.create_server(("127.0.0.1", 0)) as other:
        yield {"forward": {other.getsockname()[1]: 22}}


CASES: Mapping[str, Callable[[World], Any]] = {
    "hypervisor refuses": lambda world: site_fails(world, "start", Refused("No room for it.", remedy="Make room.")),
    "disk full": lambda world: site_fails(world, "create", NoSpace("No space left in /x.", remedy="Free space there.")),
    "network missing": lambda world: site_fails(
        world, "check", Refused("Card 1 is to be on network lan, which is not there.", remedy="Start it at the site.")
    ),
    "name taken": lambda world: site_fails(
        world, "create", Refused("Another machine is called web1.", remedy="Choose another: --name.")
    ),
    "panic": panic,
    "port in use": port_in_use,
    "vault gone": vault_gone,
}


def meet_them_all(home: Path) -> None:
    """Meet each, then what ends up: a machine that answers nothing, and one beside it that is not asked anything."""
    drill.prepare(home)
    site = BadSite(home / "site", Fuse(0))
    made = drill.context(home, Fuse(0))
    patience = dataclasses.replace(made.patience, hung=0.3, answer=30.0)
    context = dataclasses.replace(made, site=lambda _kind: site, patience=patience)
    engine = JobEngine(f"sqlite:///{home / 'jobs.sqlite'}", recovery_jobs(context))
    engine.launch()
    world = World(home, site, context, engine)
    found: dict[str, Any] = {}
    for name, case in CASES.items():
        with case(world) as request:
            found[name] = world.run(**request)
    dead = {"kind": "tcp", "port": 22, "within": 1}
    object.__setattr__(patience, "answer", 0.2)
    found["answers nothing"] = world.run(checks=[dead], forward={4022: 22})
    found["the way back"] = world.run(checks=[], forward={})
    (home / "outcomes.json").write_text(json.dumps(found))
    os._exit(0)
