"""One life of a server that works on a recovery job, in a process of its own so that it can be killed.

``prepare`` makes a home with a vault, a catalog and a protected machine; ``live`` launches the jobs over it, starts
the job if it has not been, and waits until it has ended. The exit status is that of the process: 0, or a signal.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass
from pathlib import Path

from tests.scenarios.recovery.doubles import DoomedCatalog, FileExports, FileSite, Fuse
from tests.unit.vault.synthetic import MACHINE, Machine
from tests.waiting import until

from farshore.api_types.failovers import FailoverRequest
from farshore.catalog import epochs, failovers, machines, policies, process_servers
from farshore.catalog.database import Catalog
from farshore.catalog.tables import EpochRow, FailoverRow, MachineRow
from farshore.catalog.upgrade import upgrade
from farshore.configuration_server.clock import SystemClock
from farshore.configuration_server.jobs.engine import JobEngine
from farshore.model.identifiers import JobId
from farshore.model.states import JobState, MachineState
from farshore.recovery.context import Patience, RecoveryContext
from farshore.recovery.jobs import recovery_jobs
from farshore.vault import OwnerKey, Vault, open_store

SERVER = "22222222-2222-4222-8222-222222222222"
ENDED = (JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED)


@dataclass(frozen=True)
class Task:
    """One job to be carried out, and where to die."""

    home: Path
    kind: str
    failover: str
    job: str
    die_at: int = 0
    refuse: bool = False


def prepare(home: Path) -> None:
    """A machine with a few recovery points, protected, its process server up to date."""
    store = open_store(f"file://{home / 'vault'}")
    vault = Vault.create(store, OwnerKey.generate_file(home / "owner.key"))
    machine = Machine(vault, seed=1, sizes={0: 3 << 20})
    machine.fill()
    machine.begin_epoch(None)
    machine.journal(segments=3, batches=1, count=4)
    (home / "key").write_text(vault.key_hex)
    catalog = Catalog(f"sqlite:///{home / 'catalog.sqlite'}")
    upgrade(catalog.engine)
    now = time.time_ns()
    with catalog.writing() as tx:
        policies.ensure_default(tx)
        process_servers.register(tx, SERVER, "https://ps:9443", "1", now)
        description = {"hostname": "web1"}
        tx.add(
            MachineRow(id=MACHINE, name="web1", state=MachineState.PROTECTED.value, enrolled=now, policy="default",
                       description=description, protect=True, process_server=SERVER, epoch=1)
        )  # fmt: skip
        tx.flush()
        epochs.add(
            tx,
            EpochRow(machine=MACHINE, epoch=1, kind="initial", run="r", process_server=SERVER, description=description,
                     granted=now, consistent=True, received=12, stored=12, reported=now),
        )  # fmt: skip
    catalog.close()


def request(home: Path, failover: str, job: str, kind: str) -> None:
    """What the API does: the row that the job works on."""
    catalog = Catalog(f"sqlite:///{home / 'catalog.sqlite'}")
    asked = FailoverRequest.model_validate({"kind": kind, "site": "files"})
    with catalog.writing() as tx:
        row = FailoverRow(id=failover, machine=MACHINE, kind=kind, state="requested", site="files", job=job,
                          request=asked.model_dump(mode="json"), requested=time.time_ns())  # fmt: skip
        failovers.add(tx, row)
    catalog.close()


def context(home: Path, fuse: Fuse, *, refuse: bool = False) -> RecoveryContext:
    """The collaborators over a home."""
    return RecoveryContext(
        catalog=DoomedCatalog(f"sqlite:///{home / 'catalog.sqlite'}", fuse),
        clock=SystemClock(),
        folder=home / "failovers",
        vault_url=f"file://{home / 'vault'}",
        vault_key=(home / "key").read_text(),
        site=lambda _kind: FileSite(home / "site", fuse, refuse=refuse),
        exports=FileExports(fuse),
        sleep=time.sleep,
        patience=Patience(drain=0.1, settle=0.0, poll=0.01, answer=5.0),
    )


def live(task: Task) -> None:
    """Work until the job has ended; leaves the moments passed and the job in ``<home>/outcome.json``."""
    fuse = Fuse(task.die_at)
    engine = JobEngine(
        f"sqlite:///{task.home / 'jobs.sqlite'}", recovery_jobs(context(task.home, fuse, refuse=task.refuse))
    )
    engine.launch()
    work = {"subject": str(MACHINE), "failover": task.failover}
    job = engine.start(task.kind, work, JobId(task.job))
    until(lambda: engine.show(JobId(task.job)).state in ENDED, "the job's end", pause=0.01)
    job = engine.show(JobId(task.job))
    outcome = {"moments": fuse.passed, "job": job.model_dump(mode="json")}
    (task.home / "outcome.json").write_text(json.dumps(outcome))
    # The next server must cope with one that just vanished, and closing takes longer than the job.
    os._exit(0)


def standing(home: Path, failover: str) -> tuple[str, str]:
    """The states of a failover and of the machine."""
    catalog = Catalog(f"sqlite:///{home / 'catalog.sqlite'}")
    with catalog.reading() as tx:
        states = failovers.get(tx, failover).state, machines.get(tx, MACHINE).state
    catalog.close()
    return states
