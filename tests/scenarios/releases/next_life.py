"""What a server of this release does with an installation that an earlier one left, in a process of its own."""

from __future__ import annotations

import hashlib
import json
import os
from functools import partial
from pathlib import Path
from typing import Any

from tests.file_site import FileSite, Fuse
from tests.scenarios.recovery import drill
from tests.scenarios.releases.make_release import COMMITTED, CUT_OFF, NAMES, machine_id
from tests.waiting import until

from farshore.api_types.failovers import FailoverKind, FailoverRequest
from farshore.catalog import failovers, machines, sites
from farshore.catalog.database import Catalog
from farshore.catalog.tables import SiteRow
from farshore.catalog.upgrade import upgrade
from farshore.configuration_server.jobs.engine import JobEngine
from farshore.configuration_server.vault_access import OpenVault
from farshore.model.identifiers import DiskNumber, JobId
from farshore.model.states import FailoverAction
from farshore.recovery.jobs import recovery_jobs
from farshore.recovery.requests import Requests, start_requested
from farshore.recovery.upkeep import Upkeep
from farshore.vault.reading.points import Latest


def go_on(home: Path) -> None:
    """What the server does at its start, and what somebody may do then; leaves what became of it in outcome.json."""
    vault = OpenVault.open(f"file://{home / 'vault'}", home / "owner.key")
    (home / "key").write_text(vault.vault_key)
    context = drill.context(home, Fuse(0))
    upgrade(context.catalog.engine)
    engine = JobEngine(f"sqlite:///{home / 'jobs.sqlite'}", recovery_jobs(context))
    engine.launch()
    start_requested(engine, context.catalog)
    site, upkeep = FileSite(home / "site", Fuse(0)), Upkeep(context)
    upkeep.look()
    found: dict[str, Any] = {
        "wrong at first": [one.kind for one in upkeep.conditions],
        "cut off": [standing(context.catalog, CUT_OFF), engine.show(JobId(f"job-of-{CUT_OFF}")).state.value],
        "committed": standing(context.catalog, COMMITTED),
        "runs at": place(context.catalog),
        "at the site": list(site.present()),
    }
    site.stop(next(one for one in site.present() if one == COMMITTED), grace=0)  # it dies
    upkeep.look()
    upkeep.look()
    found["wrong at last"] = [one.kind for one in upkeep.conditions]
    with context.catalog.writing() as tx:
        sites.add(tx, SiteRow(id="files", kind="files"))
    requests = Requests(context.catalog, context.clock, engine, "user/admin")
    for name in NAMES[1:]:
        job = requests.fail_over(name, FailoverRequest(kind=FailoverKind.FAILOVER, site="files"))
        until(partial(drill._has_ended, engine, JobId(job.id)), "the failover's end")
        found[name] = engine.show(JobId(job.id)).state.value
    job = requests.act(FailoverAction.DELETE, COMMITTED)
    until(partial(drill._has_ended, engine, JobId(job.id)), "the end of what was committed")
    with context.catalog.reading() as tx:
        found["states"] = {row.name: row.state for row in machines.every(tx)}
        found["failovers"] = sorted((row.machine, row.state) for row in failovers.page(tx, limit=100))
    for number, name in enumerate(NAMES):
        machine = context.machine_vault(machine_id(number))
        source = machine.disks.open(machine.points.resolve(Latest.ANY).position, DiskNumber(0))
        whole = bytearray(source.size)
        source.read_into(0, memoryview(whole))
        found[f"{name} is as it was"] = hashlib.sha256(whole).hexdigest() == (home / f"{name}.sha256").read_text()
    (home / "outcome.json").write_text(json.dumps(found))
    os._exit(0)


def place(catalog: Catalog) -> dict[str, list[str]]:
    with catalog.reading() as tx:
        return {row.name: [row.site, row.owner] for row in machines.every(tx)}


def standing(catalog: Catalog, failover: str) -> list[str]:
    with catalog.reading() as tx:
        row = failovers.get(tx, failover)
        return [row.state, machines.get(tx, row.machine).state]
