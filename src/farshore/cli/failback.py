"""``farshore failback``: bring a failed-over machine back to its home site, for real or as a test."""

from __future__ import annotations

from typing import Annotated

import typer

from farshore.api_types.failovers import Failover, FailoverKind, FailoverRequest, SurvivingDisk
from farshore.api_types.jobs import Job
from farshore.api_types.users import Role
from farshore.cli.asking import check_role, confirm
from farshore.cli.connection import AsJson, MachineName, NoWait, Yes, completion, management
from farshore.cli.failover import Forward, parse_forward
from farshore.cli.following import finish
from farshore.cli.output import duration, err, out
from farshore.client.management import Management
from farshore.client.transport import segment
from farshore.model.errors import Malformed
from farshore.model.states import UNDER_WAY, Direction, FailoverAction, FailoverState

app = typer.Typer(
    no_args_is_help=True, help="Bring a failed-over machine back to its home site, for real or as a test."
)

HomeSite = Annotated[
    str,
    typer.Option(
        "--site",
        help="Home site to run the machine at. Default: --target-site of its failback policy.",
        show_default=False,
    ),
]

_IMAGES = ("", "qcow2")
Disks = Annotated[
    list[str] | None,
    typer.Option(
        "--disk",
        metavar="NUMBER=PATH[,format=qcow2]",
        help="A disk that survived at home: a raw file, qcow2 image or device on the server's host. Only "
        "differences are fetched. Repeatable. Without it all disks are written from scratch.",
        show_default=False,
    ),
]


WrittenBy = Annotated[
    str,
    typer.Option(
        "--master-target",
        metavar="NAME",
        help="Master target that writes the surviving disks. Default: the one that `farshore up` runs. This "
        "server's host must see the same disks at the same paths.",
        show_default=False,
        autocompletion=completion("/v1/master-targets"),
    ),
]


@app.command()
def run(
    machine: MachineName,
    site: HomeSite = "",
    disk: Disks = None,
    master_target: WrittenBy = "",
    forward: Forward = None,
    yes: Yes = False,
    no_wait: NoWait = False,
    as_json: AsJson = False,
) -> None:
    """Bring a machine home: stop it at the recovery site, transfer its last writes, start it at home and protect it
    again.

    No write is lost: the machine is frozen until its last point is in the vault. Until it is up at home you can cancel
    the failback, and the machine keeps running at the recovery site.

    Surviving disks are updated while the machine still runs; only differences are fetched. They cannot be booted until
    that is complete.

    Example: `farshore failback run db1 --site home --disk 0=/dev/vg0/db1`
    """
    api = management()
    surviving = parse_disks(disk or [])
    if not yes:
        check_role(api, Role.OPERATOR)
        found = api.machine(machine)
        err.print(f"{found.name} will be stopped at {found.site or 'its site'}. At the end its copy there is removed.")
        confirm(f"Bring {found.name} home{f' to {site}' if site else ''}?")
    job = _ask(api, machine, FailoverKind.FAILOVER, site, forward, surviving, master_target)
    job = finish(api, job, as_json=as_json, no_wait=no_wait)
    if not as_json and not no_wait:
        _tell(job)


@app.command("test")
def rehearse(
    machine: MachineName,
    site: HomeSite = "",
    forward: Forward = None,
    no_wait: NoWait = False,
    as_json: AsJson = False,
) -> None:
    """Bring up a copy at home, on an isolated network, while the machine keeps running. Remove it with `farshore
    failback cancel`.

    Example: `farshore failback test db1 --site home --forward 2222:22`
    """
    api = management()
    finish(api, _ask(api, machine, FailoverKind.TEST, site, forward), as_json=as_json, no_wait=no_wait)


@app.command()
def cancel(machine: MachineName, yes: Yes = False, no_wait: NoWait = False, as_json: AsJson = False) -> None:
    """Cancel a failback whose machine is not up at home yet, or remove a test failback."""
    api = management()
    if not yes:
        check_role(api, Role.OPERATOR)
    found = _present(api, machine)
    under_way = FailoverState(found.state) in UNDER_WAY
    if not yes:
        what = (
            "The machine keeps running where it is"
            if under_way
            else "The copy at home and everything it has written are removed"
        )
        confirm(f"Cancel the failback of {machine}? {what}.")
    if under_way:
        job = api.transport.post(f"/v1/jobs/{segment(found.job)}/cancel", None, Job)
        finish(api, job, as_json=as_json, no_wait=True)
        return
    action = FailoverAction.CLEAN_UP.value
    job = api.transport.post(f"/v1/failovers/{segment(found.id)}/{action}", None, Job)
    finish(api, job, as_json=as_json, no_wait=no_wait)


def parse_disks(pairs: list[str]) -> dict[int, SurvivingDisk]:
    """Parse NUMBER=PATH pairs. Raises Malformed."""
    found: dict[int, SurvivingDisk] = {}
    for pair in pairs:
        number, _, place = pair.partition("=")
        path, _, image = place.partition(",format=")
        if not number.isdecimal() or not path.startswith("/") or image not in _IMAGES or int(number) in found:
            raise Malformed(
                f"{pair!r} does not give the path of a disk.",
                remedy="Write it as NUMBER=/PATH[,format=qcow2], for example 0=/dev/sdb.",
            )
        found[int(number)] = SurvivingDisk(path=path, image=image)
    return found


def _ask(
    api: Management,
    machine: str,
    kind: FailoverKind,
    site: str,
    forward: list[str] | None,
    disks: dict[int, SurvivingDisk] | None = None,
    master_target: str = "",
) -> Job:
    ports = None if forward is None else parse_forward(forward)
    request = FailoverRequest(kind=kind, site=site, forward=ports, disks=disks or {}, master_target=master_target)
    return api.fail_back(machine, request)


def _present(api: Management, machine: str) -> Failover:
    """Return the machine's newest failback or test failback that can be cancelled. Raises Malformed."""
    for one in api.failovers(machine):
        test = one.kind is FailoverKind.TEST
        state = FailoverState(one.state)
        if one.direction == Direction.HOME.value and (state in UNDER_WAY or (test and state is FailoverState.RUNNING)):
            return one
    raise Malformed(
        f"{machine!r} has no running failback and no test failback.",
        remedy="See `farshore failover list --machine`. A completed failback cannot be cancelled: fail over again.",
    )


def _tell(job: Job) -> None:
    gone = job.result.get("downtime_seconds")
    if gone is not None:
        out.print(f"Downtime: {duration(float(gone))}.")
    if not job.result.get("held"):
        out.print("The machine could not be frozen and was shut down instead: see docs/operate/failback.md.")
