"""``farshore failover``: bring machines up at a recovery site, for real or as a test."""

from __future__ import annotations

from typing import Annotated

import typer

from farshore.api_types.failovers import Failover, FailoverKind, FailoverRequest
from farshore.api_types.jobs import Job
from farshore.cli.connection import AsJson, MachineName, NoWait, management
from farshore.cli.following import finish
from farshore.cli.output import duration, moment, print_fields, print_json, print_table
from farshore.cli.point import choice
from farshore.client.management import Management
from farshore.client.transport import segment
from farshore.model.errors import Malformed

app = typer.Typer(no_args_is_help=True, help="Bring machines up at a recovery site, for real or as a test.")

PointOption = Annotated[str, typer.Option("--point", help="A point's id or name.", show_default=False)]
TimeOption = Annotated[
    str, typer.Option("--time", help="The last state by this time: 2026-01-31T12:00:00Z, or 90s.", show_default=False)
]
PositionOption = Annotated[
    str, typer.Option("--position", help="The state at EPOCH:SEQUENCE, any single write.", show_default=False)
]
Processed = Annotated[bool, typer.Option("--latest-processed", help="The newest state in the vault; wait for nothing.")]
AppConsistent = Annotated[bool, typer.Option("--latest-app-consistent", help="The newest app-consistent point.")]
Site = Annotated[str, typer.Option(help="Where to bring it up.")]
Forward = Annotated[
    list[str] | None,
    typer.Option(help="HOST:GUEST: forward a port of this host to the machine; repeat it.", show_default=False),
]
FailoverId = Annotated[
    str, typer.Argument(metavar="FAILOVER", help="The failover's id, or the machine's name.", show_default=False)
]


@app.command()
def run(
    machine: MachineName,
    point: PointOption = "",
    time: TimeOption = "",
    position: PositionOption = "",
    latest_app_consistent: AppConsistent = False,
    latest_processed: Processed = False,
    site: Site = "qemu",
    forward: Forward = None,
    no_wait: NoWait = False,
    as_json: AsJson = False,
) -> None:
    """Fail a machine over: fence its source, and bring it up from the latest point, or the one that you choose.

    All other points stay; `farshore failover commit` makes the choice final.

    Example: `farshore failover run db1 --forward 5432:5432`
    """
    kind, chosen = FailoverKind.FAILOVER, choice(point, time, position, latest_app_consistent, latest_processed)
    request = FailoverRequest(kind=kind, point=chosen, site=site, forward=parse_forward(forward or []))
    _start(machine, request, no_wait, as_json)


@app.command("test")
def rehearse(
    machine: MachineName,
    point: PointOption = "",
    time: TimeOption = "",
    position: PositionOption = "",
    latest_app_consistent: AppConsistent = False,
    latest_processed: Processed = False,
    site: Site = "qemu",
    forward: Forward = None,
    no_wait: NoWait = False,
    as_json: AsJson = False,
) -> None:
    """Bring a copy up beside production, on an isolated network; replication goes on. End it with `cleanup`.

    Example: `farshore failover test db1 --time 10m --forward 2222:22`
    """
    kind, chosen = FailoverKind.TEST, choice(point, time, position, latest_app_consistent, latest_processed)
    request = FailoverRequest(kind=kind, point=chosen, site=site, forward=parse_forward(forward or []))
    _start(machine, request, no_wait, as_json)


@app.command("list")
def list_failovers(
    machine: Annotated[str | None, typer.Option(help="Only of this machine.")] = None, as_json: AsJson = False
) -> None:
    """List failovers and tests, the newest first."""
    api = management()
    found = api.transport.get_list("/v1/failovers", Failover, machine=machine)
    if as_json:
        print_json(found)
        return
    names = {known.id: known.name for known in api.machines()}
    rows = [
        [
            failover.id,
            names.get(failover.machine, failover.machine),
            failover.kind.value,
            failover.state,
            moment(failover.point_time),
            failover.address,
            failover.message,
        ]
        for failover in found
    ]
    print_table(("Failover", "Machine", "Kind", "State", "Point", "Address", "Message"), rows, "There are none.")


@app.command()
def cleanup(failover: FailoverId, no_wait: NoWait = False, as_json: AsJson = False) -> None:
    """Remove a test failover, or what a failed one left behind. Nothing of it stays."""
    _finish(failover, "cleanup", no_wait, as_json)


@app.command()
def commit(failover: FailoverId, no_wait: NoWait = False, as_json: AsJson = False) -> None:
    """Make a failover final. The other recovery points stay until retention ends them."""
    _finish(failover, "commit", no_wait, as_json)


def parse_forward(pairs: list[str]) -> dict[int, int]:
    """HOST:GUEST pairs. Raises Malformed."""
    forward: dict[int, int] = {}
    for pair in pairs:
        host, _, guest = pair.partition(":")
        if not (host.isdecimal() and guest.isdecimal() and 0 < int(host) < 65536 and 0 < int(guest) < 65536):
            raise Malformed(f"{pair!r} is no pair of ports.", remedy="Write it as HOST:GUEST, for example 2222:22.")
        forward[int(host)] = int(guest)
    return forward


def _start(machine: str, request: FailoverRequest, no_wait: bool, as_json: bool) -> None:
    api = management()
    job = finish(api, api.fail_over(machine, request), as_json=as_json, no_wait=no_wait)
    if as_json or no_wait:
        return
    found = next((one for one in api.failovers() if one.job == job.id), None)
    if found is not None:
        took = duration((found.running - found.requested) / 1e9) if found.running else ""
        forwards = ", ".join(f"{host} → {guest}" for host, guest in found.forward.items())
        print_fields(
            [
                ("Failover", found.id),
                ("State", found.state),
                ("Point", f"{moment(found.point_time)} ({found.point_epoch}:{found.point_sequence})"),
                ("Proof", found.proof),
                ("Address", found.address),
                ("Ports", forwards),
                ("Running after", took),
            ]
        )


def _finish(failover: str, what: str, no_wait: bool, as_json: bool) -> None:
    api = management()
    chosen = _find(api, failover)
    job = api.transport.post(f"/v1/failovers/{segment(chosen)}/{what}", None, Job)
    finish(api, job, as_json=as_json, no_wait=no_wait)


def _find(api: Management, wanted: str) -> str:
    """A failover by id, or the only one of a machine that has not been cleaned up."""
    known = api.failovers()
    if any(failover.id == wanted for failover in known):
        return wanted
    machines = {machine.id for machine in api.machines() if wanted in (machine.id, machine.name)}
    current = [one.id for one in known if one.machine in machines and one.state not in ("cleaned-up", "committed")]
    if len(current) == 1:
        return current[0]
    raise Malformed(
        f"{wanted!r} stands for {len(current) or 'no'} failovers.", remedy="Give an id of `farshore failover list`."
    )
