"""``farshore point``: recovery points, and the options that select one."""

from __future__ import annotations

import uuid
from typing import Annotated

import typer

from farshore.api_types.points import Point, PointChoice, PointRequest
from farshore.api_types.users import Role
from farshore.cli.asking import ask
from farshore.cli.connection import AsJson, MachineName, NoWait, Yes, management
from farshore.cli.following import finish
from farshore.cli.grammar import parse_time
from farshore.cli.output import moment, out, print_done, print_json, print_table
from farshore.client.management import Management
from farshore.client.transport import segment
from farshore.model.errors import Malformed
from farshore.model.point import PointKind
from farshore.model.position import Position

app = typer.Typer(no_args_is_help=True, help="Recovery points: list, create, pin, delete.")


@app.command("list")
def list_points(
    machine: MachineName,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="Show at most N points, newest first.")] = 20,
    after: Annotated[
        str | None,
        typer.Option(help="Only points from this time on: 2026-01-31T12:00:00Z, or 10m for ten minutes ago."),
    ] = None,
    before: Annotated[str | None, typer.Option(help="Only points before this time.")] = None,
    kind: Annotated[PointKind | None, typer.Option(help="Only points of this kind.")] = None,
    name: Annotated[str | None, typer.Option(help="Only points with this name.")] = None,
    as_json: AsJson = False,
) -> None:
    """List recovery points, newest first.

    You can also recover any moment between two points: use `farshore failover run --time`.
    """
    found = management().transport.get_list(
        f"/v1/machines/{segment(machine)}/points",
        Point,
        limit=limit,
        after=parse_time(after, "--after") if after else None,
        before=parse_time(before, "--before") if before else None,
        kind=kind.value if kind else None,
        name=name,
    )
    if as_json:
        print_json(found)
        return
    rows = [
        [
            moment(point.time),
            point.kind.value,
            point.name,
            f"{point.epoch}:{point.sequence}",
            point.id,
            ", ".join(one for one in ("pinned" if point.pinned else "", _doubts(point)) if one),
        ]
        for point in found
    ]
    print_table(("Time", "Kind", "Name", "Position", "Id", ""), rows, f"{machine} has no recovery points yet.")


def _doubts(point: Point) -> str:
    more = " …" if len(point.doubts) > 2 else ""
    return f"may be wrong: {'; '.join(point.doubts[:2])}{more}" if point.doubts else ""


@app.command()
def create(
    machine: MachineName,
    name: Annotated[str, typer.Option(help="Name of the point.")] = "",
    kind: Annotated[PointKind, typer.Option(help="Consistency of the point.")] = PointKind.CRASH_CONSISTENT,
    no_wait: NoWait = False,
    as_json: AsJson = False,
) -> None:
    """Create a recovery point now, and wait until it is in the vault.

    Example: `farshore point create db1 --name before-upgrade --kind app-consistent`
    """
    if kind is PointKind.SCANNED:
        raise Malformed(
            "A scanned point cannot be requested: scan mode makes them of busy machines.",
            remedy="Choose crash-consistent, file-system-consistent or app-consistent.",
        )
    api = management()
    job = finish(api, api.request_point(machine, PointRequest(kind=kind, name=name)), as_json=as_json, no_wait=no_wait)
    if not as_json and not no_wait:
        where = f"{job.result['epoch']}:{job.result['sequence']}"
        print_table(("Time", "Kind", "Name", "Position"), [[moment(job.result["time"]), kind.value, name, where]], "")


PointName = Annotated[
    str, typer.Argument(metavar="POINT", help="The point's id, EPOCH:SEQUENCE or name.", show_default=False)
]


@app.command()
def pin(machine: MachineName, point: PointName, as_json: AsJson = False) -> None:
    """Keep a point until it is unpinned, whatever the retention of the policy.

    Example: `farshore point pin db1 before-upgrade`
    """
    api = management()
    path = f"{_path(api, machine, point)}/pin"
    found = api.transport.call("PUT", path, None, Point)
    print_json(found) if as_json else out.print(f"The point {found.epoch}:{found.sequence} of {machine} was pinned.")


@app.command()
def unpin(machine: MachineName, point: PointName, yes: Yes = False, as_json: AsJson = False) -> None:
    """Unpin a point, so that the policy's retention applies again and may delete it at once."""
    api = management()
    path = f"{_path(api, machine, point)}/pin"
    ask(api, Role.CONTRIBUTOR, f"Unpin {point} of {machine}? Retention may delete it at once.", yes=yes)
    api.transport.delete(path)
    print_done(f"The point {point} of {machine} was unpinned.", as_json, unpinned=point)


@app.command()
def delete(machine: MachineName, point: PointName, yes: Yes = False, as_json: AsJson = False) -> None:
    """Delete a requested point and its name.

    The state can still be recovered by time or position until its retention period ends. Points that Farshore cuts by
    itself cannot be deleted one by one.
    """
    api = management()
    path = _path(api, machine, point)
    ask(api, Role.CONTRIBUTOR, f"Delete the point {point} of {machine}?", yes=yes)
    api.transport.delete(path)
    print_done(f"The point {point} of {machine} was deleted.", as_json, deleted=point)


def _path(api: Management, machine: str, point: str) -> str:
    """Return the REST path of a point. A name is resolved to an id first, as names may hold characters that a path
    cannot."""
    named = api.points(machine, 2, name=point) if point else []
    chosen = named[0].id if len(named) == 1 else point
    return f"/v1/machines/{segment(machine)}/points/{segment(chosen)}"


def choice(
    point: str, time: str, position: str, latest_app_consistent: bool, latest_processed: bool = False
) -> PointChoice:
    """Return the state that the options select, by default the latest. Raises Malformed if they select several."""
    if sum([bool(point), bool(time), bool(position), latest_app_consistent, latest_processed]) > 1:
        raise Malformed(
            "The options select several points.",
            remedy="Give one of --point, --time, --position, --latest-app-consistent, --latest-processed.",
        )
    if point:
        if _is_id(point):
            return PointChoice(id=point)
        place = _place(point)
        return PointChoice(name=point) if place is None else PointChoice(position=str(place))
    if time:
        return PointChoice(time=parse_time(time, "--time"))
    if position:
        return PointChoice(position=str(Position.parse(position)))
    if latest_processed:
        return PointChoice(latest_processed=True)
    return PointChoice(latest_app_consistent=True) if latest_app_consistent else PointChoice(latest=True)


def _place(text: str) -> Position | None:
    """Parse ``text`` as a position, which is the id of an automatic point."""
    try:
        return Position.parse(text)
    except Malformed:
        return None


def _is_id(text: str) -> bool:
    try:
        uuid.UUID(text)
    except ValueError:
        return False
    return True
