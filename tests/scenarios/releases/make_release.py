"""``python make_release.py CHECKOUT FILE``: an installation as a release leaves it, for test_upgraded_in_place.py.

Run it once for each release, with the libraries of its time; CHECKOUT is a working tree of it. That release's own code
writes the vault, the catalog and the record of jobs. It runs recovery's jobs over a site and exports that are files
(as its tests/scenarios/recovery/drill.py uses them), in processes of their own:

- machine web1 is failed over, and that is committed;
- machine db1 is protected;
- machine app1 is protected, and a failover of it was cut off while its machine was being started.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import sys
import tarfile
import tempfile
import time
import uuid
from pathlib import Path
from typing import Any

CHECKOUT = Path(sys.argv[1]) if __name__ == "__main__" else Path()
NAMES = ("web1", "db1", "app1")
SIZE = 3 << 18
COMMITTED, CUT_OFF = str(uuid.UUID(int=0xC0)), str(uuid.UUID(int=0xD0))


def machine_id(number: int) -> str:
    return str(uuid.UUID(int=7 + number))


def prepare(home: Path) -> None:
    """Three protected machines with a few recovery points each."""
    from tests.scenarios.recovery import drill
    from tests.unit.vault.synthetic import Machine

    from farshore.catalog import epochs, policies, process_servers
    from farshore.catalog.database import Catalog
    from farshore.catalog.tables import EpochRow, MachineRow
    from farshore.catalog.upgrade import upgrade
    from farshore.model.identifiers import MachineId
    from farshore.model.states import MachineState
    from farshore.vault import OwnerKey, Vault, open_store

    vault = Vault.create(open_store(f"file://{home / 'vault'}"), OwnerKey.generate_file(home / "owner.key"))
    (home / "key").write_text(vault.key_hex)
    catalog = Catalog(f"sqlite:///{home / 'catalog.sqlite'}")
    upgrade(catalog.engine)
    now = time.time_ns()
    with catalog.writing() as tx:
        policies.ensure_default(tx)
        process_servers.register(tx, drill.SERVER, "https://ps:9443", "1", now)
    for number, name in enumerate(NAMES):
        machine = Machine(vault, seed=number, sizes={0: SIZE}, machine=MachineId(machine_id(number)))
        machine.fill()
        machine.begin_epoch(None)
        machine.journal(segments=3, batches=1, count=4)
        (home / f"{name}.sha256").write_text(hashlib.sha256(machine.disks[0]).hexdigest())
        description = {"hostname": name}
        with catalog.writing() as tx:
            tx.add(
                MachineRow(id=machine.id, name=name, state=MachineState.PROTECTED.value, enrolled=now,
                           policy="default", description=description, protect=True, process_server=drill.SERVER,
                           epoch=1, hardware_id=f"hardware-{number}")
            )  # fmt: skip
            tx.flush()
            epochs.add(
                tx,
                EpochRow(machine=machine.id, epoch=1, kind="initial", run="r", process_server=drill.SERVER,
                         description=description, granted=now, consistent=True, received=12, stored=12, reported=now),
            )  # fmt: skip
    catalog.close()


def request(home: Path, failover: str, machine: str) -> None:
    from farshore.api_types.failovers import FailoverRequest
    from farshore.catalog import failovers
    from farshore.catalog.database import Catalog
    from farshore.catalog.tables import FailoverRow

    catalog = Catalog(f"sqlite:///{home / 'catalog.sqlite'}")
    asked = FailoverRequest.model_validate({"kind": "failover", "site": "files"}).model_dump(mode="json")
    with catalog.writing() as tx:
        row = FailoverRow(id=failover, machine=machine, kind="failover", state="requested", site="files",
                          job=f"job-of-{failover}", request=asked, requested=time.time_ns())  # fmt: skip
        failovers.add(tx, row)
    catalog.close()


def live(home: Path, kind: str, failover: str, job: str, machine: str, *, cut_off: bool) -> None:
    """Have a job done, or end the process with no warning where its machine is started."""
    from tests.scenarios.recovery import drill

    from farshore.configuration_server.jobs.engine import JobEngine
    from farshore.model.identifiers import JobId
    from farshore.recovery.jobs import recovery_jobs

    def die(*_: Any) -> None:
        os._exit(0)

    if cut_off:
        drill.FileSite.start = die  # type: ignore[method-assign, assignment]
    engine = JobEngine(f"sqlite:///{home / 'jobs.sqlite'}", recovery_jobs(drill.context(home, drill.Fuse(0))))
    engine.launch()
    engine.start(kind, {"subject": machine, "failover": failover}, JobId(job))
    while engine.show(JobId(job)).state not in drill.ENDED:
        time.sleep(0.01)
    print(kind, engine.show(JobId(job)).state)
    os._exit(0)


def main() -> None:
    sys.path[:0] = [str(CHECKOUT / "src"), str(CHECKOUT)]
    processes = multiprocessing.get_context("fork")
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        work: list[tuple[str, str, str, str, bool]] = [
            ("failover", COMMITTED, f"job-of-{COMMITTED}", machine_id(0), False),
            ("commit", COMMITTED, "commit", machine_id(0), False),
            ("failover", CUT_OFF, f"job-of-{CUT_OFF}", machine_id(2), True),
        ]
        steps: list[tuple[Any, tuple[Any, ...], dict[str, Any]]] = [(prepare, (home,), {})]
        for kind, failover, job, machine, cut_off in work:
            if kind == "failover":
                steps.append((request, (home, failover, machine), {}))
            steps.append((live, (home, kind, failover, job, machine), {"cut_off": cut_off}))
        for step, arguments, more in steps:
            process = processes.Process(target=step, args=arguments, kwargs=more)
            process.start()
            process.join()
            assert process.exitcode == 0, step
        with tarfile.open(sys.argv[2], "w:xz") as archive:
            archive.add(home, ".")


if __name__ == "__main__":
    main()
