"""A server that tests two machines on one network, real QEMUs with guests in boot sectors, in a process of its own."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

from tests.contract.guests import POLITE
from tests.file_site import Fuse
from tests.scenarios.recovery import drill
from tests.waiting import until

from farshore.api_types.failovers import FailoverKind, SeveralFailovers
from farshore.catalog import failovers, machines
from farshore.catalog.tables import FailoverRow
from farshore.configuration_server.jobs.engine import JobEngine
from farshore.model.identifiers import JobId
from farshore.model.states import FailoverAction
from farshore.recovery.context import RecoveryContext
from farshore.recovery.evidence import screen_of
from farshore.recovery.jobs import recovery_jobs
from farshore.recovery.requests import Requests
from farshore.sites.bubble.client import BubbleAddress

CHECKS = [{"kind": "console", "contains": "up"}, {"kind": "tcp", "port": 22, "within": 1}]


def both(home: Path) -> None:
    """Test both, look, clean both up, look again; what was seen is in ``outcomes.json``."""
    drill.prepare(home, ("web1", "web2"), boot=POLITE)
    made = drill.with_guests(home, Fuse(0))
    context = dataclasses.replace(made, patience=dataclasses.replace(made.patience, answer=0.5))
    with context.catalog.writing() as tx:
        for number, name in enumerate(("web1", "web2"), 5):
            card = {"kind": "isolated", "addresses": [f"10.9.0.{number}/24"], "keep_mac": False}
            machines.get(tx, name).target = {"networks": [card]}
    engine = JobEngine(f"sqlite:///{home / 'jobs.sqlite'}", recovery_jobs(context))
    engine.launch()
    requests = Requests(context.catalog, context.clock, engine, "somebody")
    members = [{"machine": name, "checks": CHECKS} for name in ("web1", "web2")]
    wanted = SeveralFailovers.model_validate(
        {"kind": FailoverKind.TEST, "site": "files", "network": "lab", "members": members}
    )
    job = requests.fail_over_several(wanted).id
    found: dict[str, Any] = {"job": ended(engine, job)}
    bubble = BubbleAddress(home / "site" / ".networks", "lab")
    found["members"] = len(bubble.members())
    found["up"] = looks(context)
    for one in found["up"]:
        ended(engine, requests.act(FailoverAction.CLEAN_UP, one["id"]).id)
    found["down"] = looks(context)
    until(lambda: not bubble.socket.exists(), "the end of the network")
    found["left"] = [str(path) for path in (home / "site").iterdir() if path.name not in ("accelerator", "lock")]
    (home / "outcomes.json").write_text(json.dumps(found))
    os._exit(0)


def ended(engine: JobEngine, job: str) -> str:
    until(lambda: engine.show(JobId(job)).state in drill.ENDED, "the job's end", pause=0.05)
    shown = engine.show(JobId(job))
    return f"{shown.state.value} {shown.error}".strip()


def looks(context: RecoveryContext) -> list[dict[str, Any]]:
    with context.catalog.reading() as tx:
        rows: list[FailoverRow] = failovers.page(tx, limit=10)
        return [
            {
                "id": row.id,
                "state": row.state,
                "forward": dict(row.forward),
                "evidence": dict(row.evidence),
                "picture": screen_of(context, row.id)[:8].hex(),
            }
            for row in rows
        ]
