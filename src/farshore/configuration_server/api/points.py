"""Routes for a machine's recovery points."""

from __future__ import annotations

import contextlib
from typing import Annotated

from fastapi import Query

from farshore.api_types.commands import PointArguments
from farshore.api_types.jobs import Job
from farshore.api_types.points import Point, PointRequest
from farshore.catalog import differences, events, machines, points
from farshore.catalog.change_details import Details, changed, gone
from farshore.catalog.database import Transaction
from farshore.catalog.tables import MachineRow, PointRow
from farshore.configuration_server.api import views
from farshore.configuration_server.api.parameters import Named, Place, Wanted
from farshore.configuration_server.identity import Identity
from farshore.configuration_server.jobs.point import request_for, start_point
from farshore.configuration_server.services import Services
from farshore.configuration_server.web.callers import Contributor, Installation, Operator, Reader
from farshore.configuration_server.web.gate import GatedRouter
from farshore.model.errors import NotFound, Refused, WrongState
from farshore.model.identifiers import new_id
from farshore.model.point import PointKind
from farshore.model.position import Position
from farshore.model.states import MachineState
from farshore.protection import point_names
from farshore.protection.commands import ask

router = GatedRouter(prefix="/v1/machines/{machine}/points", tags=["points"])
MAXIMUM = 10_000
_PINNED = ({"pinned": False}, {"pinned": True})


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
    """Return points, newest first, with ``after`` ≤ time < ``before`` (ns). The vault can also open moments between
    them."""
    with installation.catalog.reading() as tx:
        row = machines.get(tx, machine)
        found = points.listed(tx, row.id, limit=limit, before=before, after=after, kind=kind, name=name)
        differing = differences.listed(tx, row.id)
        return [views.point(point, differing) for point in found]


@router.post("", status_code=202)
def request_point(machine: Named, request: PointRequest, user: Operator, installation: Installation) -> Job:
    """Create a point now. The job ends when it is durable in the vault."""
    command, now = new_id(), installation.clock.now()
    arguments = PointArguments(kind=request.kind, name=request.name)

    def asked(tx: Transaction) -> str:
        row = machines.get(tx, machine)
        if row.state not in (MachineState.PROTECTED.value, MachineState.RESYNC.value):
            raise WrongState(f"{row.name} is {row.state}.", remedy="Wait until the machine is protected.")
        point_names.check_free(tx, row, request.name)
        events.record(
            tx,
            time=now,
            kind="point.requested",
            actor=user.actor,
            subject=f"machine/{row.id}",
            message=f"A {request.kind.value} point of {row.name} was requested.",
            detail={"name": request.name},
        )
        ask(tx, command, row.id, arguments, now)
        return row.id

    wanted = request_for(installation.catalog.write(asked), request.kind, request.name)
    return start_point(installation.jobs, installation.catalog, installation.clock, command, wanted)


@router.put("/{point}/pin")
def pin_point(machine: Named, point: Named, user: Operator, installation: Installation) -> Point:
    """Keep a point, by its id or EPOCH:SEQUENCE, until it is unpinned, whatever the policy says. Repeating it is a
    no-op."""
    with installation.catalog.reading() as tx:
        row = machines.get(tx, machine)
        position = points.position_of(tx, row.id, point)
    # The vault first: if this is interrupted, the vault keeps the point, and the catalog finds it there in its next
    # round.
    kept = installation.vault.pin(row.id, position)
    with installation.catalog.writing() as tx:
        there = points.at(tx, row.id, position)
        if not there:
            made = points.point_id(row.id, position.epoch, position.sequence, kept.kind.value)
            found = PointRow(
                id=made,
                machine=row.id,
                epoch=position.epoch,
                sequence=position.sequence,
                time=kept.time,
                kind=kept.kind.value,
                name=kept.name,
            )
            points.record(tx, found)
            there = points.at(tx, row.id, position)
        new = not all(one.pinned for one in there)
        for one in there:
            one.pinned = True
        if new:
            _tell(tx, installation, user, row, position, "pinned", "is pinned: retention keeps it", changed(*_PINNED))
        return views.point(next((one for one in there if one.id == point), there[0]))


@router.delete("/{point}/pin", status_code=204)
def unpin_point(machine: Named, point: Named, user: Contributor, installation: Installation) -> None:
    """Let the policy decide about a point again. Repeating it is a no-op."""
    with installation.catalog.reading() as tx:
        row = machines.get(tx, machine)
        position = points.position_of(tx, row.id, point)
    was = installation.vault.unpin(row.id, position)
    with installation.catalog.writing() as tx:
        there = points.at(tx, row.id, position)
        was = was or any(one.pinned for one in there)
        for one in there:
            one.pinned = False
        if was:
            _tell(
                tx,
                installation,
                user,
                row,
                position,
                "unpinned",
                "is no longer pinned: the policy decides",
                changed(*reversed(_PINNED)),
            )


@router.delete("/{point}", status_code=204)
def delete_point(machine: Named, point: Named, user: Contributor, installation: Installation) -> None:
    """Delete a requested point, by its id, with its name. Its moment remains recoverable as the policy says."""
    with installation.catalog.reading() as tx:
        row = machines.get(tx, machine)
        found = points.get(tx, row.id, point)
        position = points.position_of(tx, row.id, point)
        name = found.name
        if found.kind == PointKind.CRASH_CONSISTENT.value and not name:
            raise Refused(
                f"The point {position} of {row.name} was created by Farshore itself and cannot be deleted alone.",
                remedy="Shorten the retention of the machine's policy.",
            )
    # If this ends after the vault's part, the catalog lists a deleted point; repeating the call corrects that.
    with contextlib.suppress(NotFound):
        installation.vault.delete_point(row.id, point)
    with installation.catalog.writing() as tx:
        tx.delete(points.get(tx, row.id, point))
        _tell(
            tx,
            installation,
            user,
            row,
            position,
            "deleted",
            f"{f'({name}) ' if name else ''}was deleted",
            gone({"kind": found.kind, "name": name}),
        )


def _tell(
    tx: Transaction,
    installation: Services,
    user: Identity,
    row: MachineRow,
    at: Position,
    verb: str,
    what: str,
    details: Details,
) -> None:
    events.record(
        tx,
        time=installation.clock.now(),
        kind=f"point.{verb}",
        actor=user.actor,
        subject=f"machine/{row.id}",
        message=f"The point {at} of {row.name} {what}.",
        detail={"position": str(at), **details},
    )
