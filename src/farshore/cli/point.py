"""``farshore point``: recovery points, and the options that choose one."""

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

app = typer.Typer(no_args_is_help=True, help="Recovery points: the moments that a machine can be brought back to.")


@app.command("list")
def list_points(
    machine: MachineName,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="How many to list: the newest.")] = 20,
    after: Annotated[str | None, typer.Option(help="Only from this time on: 2026-01-31T12:00:00Z, or 10m.")] = None,
    before: Annotated[str | None, typer.Option(help="Only before this time.")] = None,
    kind: Annotated[PointKind | None, typer.Option(help="Only of this kind.")] = None,
    name: Annotated[str | None, typer.Option(help="Only with this name.")] = None,
    as_json: AsJson = False,
) -> None:
    """List points, the newest first.

    Any moment between two points can be recovered as well: give it to `farshore failover` with --time.
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
    name: Annotated[str, typer.Option(help="A name to find it by.")] = "",
    kind: Annotated[PointKind, typer.Option(help="How much is to be at rest.")] = PointKind.CRASH_CONSISTENT,
    no_wait: NoWait = False,
    as_json: AsJson = False,
) -> None:
    """Cut a point now, and wait until it is in the vault.

    Example: `farshore point create db1 --name before-upgrade --kind app-consistent`
    """
    if kind is PointKind.SCANNED:
        raise Malformed(
            "A scanned point cannot be asked for: it is what scan mode makes of a busy machine.",
            remedy="Ask for crash-consistent, file-system-consistent or app-consistent.",
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
    """Keep a point until it is unpinned, whatever the policy says of retention.

    Example: `farshore point pin db1 before-upgrade`
    """
    api = management()
    path = f"{_path(api, machine, point)}/pin"
    found = api.transport.call("PUT", path, None, Point)
    print_json(found) if as_json else out.print(f"The point {found.epoch}:{found.sequence} of {machine} is pinned.")


@app.command()
def unpin(machine: MachineName, point: PointName, yes: Yes = False, as_json: AsJson = False) -> None:
    """Let the policy decide about a pinned point again. It may go at once."""
    api = management()
    path = f"{_path(api, machine, point)}/pin"
    ask(api, Role.CONTRIBUTOR, f"Unpin {point} of {machine}? The policy may let it go at once.", yes=yes)
    api.transport.delete(path)
    print_done(f"The point {point} of {machine} is not pinned.", as_json, unpinned=point)


@app.command()
def delete(machine: MachineName, point: PointName, yes: Yes = False, as_json: AsJson = False) -> None:
    """Delete a point that was asked for, and its name with it.

    Its moment can be recovered by its time or position for as long as the policy keeps it. A moment of the stream
    itself cannot be deleted alone.
    """
    api = management()
    path = _path(api, machine, point)
    ask(api, Role.CONTRIBUTOR, f"Delete the point {point} of {machine}?", yes=yes)
    api.transport.delete(path)
    print_done(f"The point {point} of {machine} is deleted.", as_json, deleted=point)


def _path(api: Management, machine: str, point: str) -> str:
    """The path of a point; a name is looked up, for names hold what no path takes."""
    named = api.points(machine, 2, name=point) if point else []
    chosen = named[0].id if len(named) == 1 else point
    return f"/v1/machines/{segment(machine)}/points/{segment(chosen)}"


def choice(
    point: str, time: str, position: str, latest_app_consistent: bool, latest_processed: bool = False
) -> PointChoice:
    """The state that options name; the latest where they name none. Raises Malformed where they name several."""
    if sum([bool(point), bool(time), bool(position), latest_app_consistent, latest_processed]) > 1:
        raise Malformed(
            "Several points are asked for.",
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
    """The position that ``text`` is, as lists have it: the id of a moment of the stream."""
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
