"""Recovery points of a machine."""

from __future__ import annotations

from typing import Annotated

from fastapi import Query

from farshore.api_types.jobs import Job
from farshore.api_types.points import Point, PointRequest
from farshore.catalog import differences, events, machines, points
from farshore.configuration_server.api import views
from farshore.configuration_server.api.parameters import Named, Place, Wanted
from farshore.configuration_server.jobs.point import POINT
from farshore.configuration_server.web.callers import Installation, Operator, Reader
from farshore.configuration_server.web.gate import GatedRouter
from farshore.model.errors import WrongState
from farshore.model.point import PointKind
from farshore.model.states import MachineState
from farshore.protection import point_names

router = GatedRouter(prefix="/v1/machines/{machine}/points", tags=["points"])
MAXIMUM = 10_000


@router.get("")
def list_points(
    machine: Named,
    _user: Reader,
    installation: Installation,
    limit: Annotated[int, Query(ge=1, le=MAXIMUM)] = 100,
    before: Place | None = None,
    after: Place | None = None,
    kind: PointKind | None = None,
    name: Wanted = None,
) -> list[Point]:
    """Points, newest first, with ``after`` ≤ time < ``before`` (ns). The vault can open the moments between as well."""
    with installation.catalog.reading() as tx:
        row = machines.get(tx, machine)
        found = points.listed(tx, row.id, limit=limit, before=before, after=after, kind=kind, name=name)
        differing = differences.listed(tx, row.id)
        return [views.point(point, differing) for point in found]


@router.post("", status_code=202)
def request_point(machine: Named, request: PointRequest, user: Operator, installation: Installation) -> Job:
    """Cut a point now. The job ends when it is durable in the vault."""
    with installation.catalog.writing() as tx:
        row = machines.get(tx, machine)
        if row.state not in (MachineState.PROTECTED.value, MachineState.RESYNC.value):
            raise WrongState(f"{row.name} is {row.state}.", remedy="Points can be cut once the machine is protected.")
        point_names.check_free(tx, row, request.name)
        events.record(
            tx,
            time=installation.clock.now(),
            kind="point.requested",
            actor=user.actor,
            subject=f"machine/{row.id}",
            message=f"A {request.kind.value} point of {row.name} was asked for.",
            detail={"name": request.name},
        )
        subject = row.id
    return installation.jobs.start(
        POINT, {"subject": subject, "kind": request.kind.value, "name": request.name, "actor": user.actor}
    )
