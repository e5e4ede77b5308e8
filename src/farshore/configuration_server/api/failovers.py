"""Routes for failover and test failover, and for actions on them: each is a job of farshore.recovery."""

from __future__ import annotations

import base64
from typing import Annotated

from fastapi import Query

from farshore.api_types.failovers import Console, Failover, FailoverReport, FailoverRequest, SeveralFailovers
from farshore.api_types.jobs import Job
from farshore.catalog import events, failovers, machines
from farshore.configuration_server.api import views
from farshore.configuration_server.api.parameters import Named, Wanted
from farshore.configuration_server.identity import Identity
from farshore.configuration_server.services import Services
from farshore.configuration_server.web.callers import Contributor, Installation, Operator, Reader
from farshore.configuration_server.web.gate import GatedRouter
from farshore.model.states import FailoverAction
from farshore.recovery import consoles
from farshore.recovery.evidence import screen_of
from farshore.recovery.requests import Requests

router = GatedRouter(prefix="/v1", tags=["failovers"])

MOST_CONSOLE = 1 << 20
"""Maximum bytes of a console in one answer."""
REPORTED_CONSOLE = 65536
MOST_EVENTS = 1000


@router.post("/machines/{machine}/failovers", status_code=202)
def fail_over(machine: Named, request: FailoverRequest, user: Operator, installation: Installation) -> Job:
    """Bring a machine up at a recovery site, for real or as a test beside it."""
    return _requests(user, installation).fail_over(machine, request)


@router.post("/machines/{machine}/failbacks", status_code=202)
def fail_back(machine: Named, request: FailoverRequest, user: Operator, installation: Installation) -> Job:
    """Bring a machine that a recovery site runs home, to a site there, for real or as a test beside it."""
    return _requests(user, installation).fail_back(machine, request)


@router.post("/failovers", status_code=202)
def fail_over_several(request: SeveralFailovers, user: Operator, installation: Installation) -> Job:
    """Bring several machines up at a recovery site, each by a child of one job."""
    return _requests(user, installation).fail_over_several(request)


@router.get("/failovers")
def list_failovers(
    _user: Reader,
    installation: Installation,
    machine: Wanted = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    before: Wanted = None,
) -> list[Failover]:
    """Return failovers and tests, newest first; of one machine or of all. For the next page, set ``before`` to the last
    one's id."""
    with installation.catalog.reading() as tx:
        of = machines.get(tx, machine).id if machine is not None else None
        return [views.failover(row) for row in failovers.page(tx, of, limit=limit, before=before or "")]


@router.get("/failovers/{failover}")
def show_failover(failover: Named, _user: Reader, installation: Installation) -> Failover:
    """Return one failover."""
    with installation.catalog.reading() as tx:
        return views.failover(failovers.get(tx, failover))


@router.get("/failovers/{failover}/console")
def show_console(
    failover: Named,
    _user: Operator,
    installation: Installation,
    most: Annotated[int, Query(ge=1, le=MOST_CONSOLE)] = 65536,
) -> Console:
    """Return the newest ``most`` bytes of the machine's console; also after the machine is gone."""
    recovery = installation.recovery
    with installation.catalog.reading() as tx:
        row = failovers.get(tx, failover)
    text, size = consoles.newest(recovery, row.id, recovery.site(row.site), most)
    return Console(text=text.decode("utf-8", "replace"), size=size)


@router.get("/failovers/{failover}/report")
def show_report(failover: Named, _user: Operator, installation: Installation) -> FailoverReport:
    """Return everything that is kept of a failover: its record, checks, events, console text and screenshot."""
    recovery = installation.recovery
    with installation.catalog.reading() as tx:
        row = failovers.get(tx, failover)
        shown, name = views.failover(row), machines.get(tx, row.machine).name
        found = events.listed(tx, subject=f"machine/{row.machine}", newest=True, limit=MOST_EVENTS)
        told = [one for one in found if (one.detail or {}).get("failover") == row.id]
        site = row.site
    return FailoverReport(
        failover=shown,
        machine=name,
        written=installation.clock.now(),
        events=[views.incident(one) for one in told],
        console=consoles.text(recovery, shown.id, recovery.site(site), REPORTED_CONSOLE),
        screenshot=base64.b64encode(screen_of(recovery, shown.id)).decode("ascii"),
    )


@router.post("/failovers/{failover}/start", status_code=202)
def start(failover: Named, user: Operator, installation: Installation) -> Job:
    """Start a recovered machine that was stopped, or has stopped."""
    return _requests(user, installation).act(FailoverAction.START, failover)


@router.post("/failovers/{failover}/stop", status_code=202)
def stop(failover: Named, user: Operator, installation: Installation) -> Job:
    """Shut a recovered machine down. Its disks are unchanged."""
    return _requests(user, installation).act(FailoverAction.STOP, failover)


@router.post("/failovers/{failover}/commit", status_code=202)
def commit(failover: Named, user: Operator, installation: Installation) -> Job:
    """Make a failover final. All other recovery points are kept until retention ends them."""
    return _requests(user, installation).act(FailoverAction.COMMIT, failover)


@router.post("/failovers/{failover}/reprotect", status_code=202)
def reprotect(failover: Named, user: Operator, installation: Installation) -> Job:
    """Replicate a committed machine from where it runs now, on top of the point that its failover chose."""
    return _requests(user, installation).act(FailoverAction.REPROTECT, failover)


@router.post("/failovers/{failover}/cleanup", status_code=202)
def clean_up(failover: Named, user: Operator, installation: Installation) -> Job:
    """Remove a test failover, or what a failed one left; only its record and its console text are kept."""
    return _requests(user, installation).act(FailoverAction.CLEAN_UP, failover)


@router.post("/failovers/{failover}/delete", status_code=202)
def delete(failover: Named, user: Contributor, installation: Installation) -> Job:
    """Forget a failover that is over, its console too. A committed one: destroy its machine with its disks."""
    return _requests(user, installation).act(FailoverAction.DELETE, failover)


def _requests(user: Identity, installation: Services) -> Requests:
    return Requests(installation.catalog, installation.clock, installation.jobs, user.actor)
