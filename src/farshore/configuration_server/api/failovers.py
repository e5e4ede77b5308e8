"""Failover, test failover, clean-up and commit: each a job of farshore.recovery."""

from __future__ import annotations

from farshore.api_types.failovers import Failover, FailoverRequest
from farshore.api_types.jobs import Job
from farshore.catalog import events, failovers, machines
from farshore.catalog.tables import FailoverRow
from farshore.configuration_server.api import views
from farshore.configuration_server.api.parameters import Named, Wanted
from farshore.configuration_server.jobs.failover import JOBS, start_failover
from farshore.configuration_server.web.callers import Installation, Operator, Reader
from farshore.configuration_server.web.gate import GatedRouter
from farshore.model.identifiers import new_id
from farshore.recovery.jobs import CLEANUP, COMMIT
from farshore.recovery.standing import Standing

router = GatedRouter(prefix="/v1", tags=["failovers"])


@router.post("/machines/{machine}/failovers", status_code=202)
def fail_over(machine: Named, request: FailoverRequest, user: Operator, installation: Installation) -> Job:
    """Bring a machine up at a recovery site, for real or as a test beside it."""
    failover, job = new_id(), new_id()
    now = installation.clock.now()
    asked = request.model_dump(mode="json")
    with installation.catalog.writing() as tx:
        row = machines.get(tx, machine)
        wanted = FailoverRow(
            id=failover,
            machine=row.id,
            kind=request.kind.value,
            state=Standing.REQUESTED.value,
            site=request.site,
            request=asked,
            forward={str(host): guest for host, guest in request.forward.items()},
            requested=now,
            job=job,
        )
        failovers.add(tx, wanted)
        events.record(
            tx,
            time=now,
            kind=f"{JOBS[request.kind.value]}.requested",
            actor=user.actor,
            subject=f"machine/{row.id}",
            message=f"A {JOBS[request.kind.value].replace('-', ' ')} of {row.name} was asked for.",
            detail={"failover": failover, **asked},
        )
    return start_failover(installation.jobs, wanted)


@router.get("/failovers")
def list_failovers(_user: Reader, installation: Installation, machine: Wanted = None) -> list[Failover]:
    """Failovers and tests, newest first; of one machine or of all."""
    with installation.catalog.reading() as tx:
        of = machines.get(tx, machine).id if machine is not None else None
        return [views.failover(row) for row in failovers.every(tx, of)]


@router.get("/failovers/{failover}")
def show_failover(failover: Named, _user: Reader, installation: Installation) -> Failover:
    """One failover."""
    with installation.catalog.reading() as tx:
        return views.failover(failovers.get(tx, failover))


@router.post("/failovers/{failover}/cleanup", status_code=202)
def clean_up(failover: Named, user: Operator, installation: Installation) -> Job:
    """Remove a test failover, or what a failed one left, with nothing left behind."""
    return _start(CLEANUP, failover, user.actor, installation)


@router.post("/failovers/{failover}/commit", status_code=202)
def commit(failover: Named, user: Operator, installation: Installation) -> Job:
    """Make a failover final. All other recovery points stay until retention ends them."""
    return _start(COMMIT, failover, user.actor, installation)


def _start(kind: str, failover: str, actor: str, installation: Installation) -> Job:
    with installation.catalog.writing() as tx:
        row = failovers.get(tx, failover)
        events.record(
            tx,
            time=installation.clock.now(),
            kind=f"{kind}.requested",
            actor=actor,
            subject=f"machine/{row.machine}",
            message=f"The {kind} of a {row.kind} failover was asked for.",
            detail={"failover": failover},
        )
        machine = row.machine
    return installation.jobs.start(kind, {"subject": machine, "machine": machine, "failover": failover, "actor": actor})
