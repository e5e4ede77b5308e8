"""``farshore failover``: bring machines up at a recovery site, for real or as a test."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from farshore.api_types.checks import Verdict
from farshore.api_types.failovers import (
    Console,
    Failover,
    FailoverKind,
    FailoverMember,
    FailoverReport,
    SeveralFailovers,
    Shutdown,
)
from farshore.api_types.jobs import Job, OnFailure
from farshore.api_types.points import PointChoice
from farshore.api_types.targets import TargetSeverity
from farshore.api_types.users import Role
from farshore.cli.asking import check_role, confirm
from farshore.cli.check_grammar import CHECK_HELP, checks_of, shown_result
from farshore.cli.connection import MACHINES, AsJson, NoWait, Yes, management
from farshore.cli.failover_report import html_of, measured
from farshore.cli.following import finish
from farshore.cli.output import ago, duration, err, moment, out, print_fields, print_json, print_table
from farshore.cli.point import choice
from farshore.client.management import Management
from farshore.client.transport import segment
from farshore.model.errors import Malformed
from farshore.model.point import PointKind
from farshore.model.states import PRESENT, UP, FailoverAction, FailoverState, applies

_MOST_POINTS = 10_000
_NO_PORT = "none"

app = typer.Typer(no_args_is_help=True, help="Bring machines up at a recovery site, for real or as a test.")

PointOption = Annotated[
    str, typer.Option("--point", help="A point's id or name, or EPOCH:SEQUENCE.", show_default=False)
]
TimeOption = Annotated[
    str,
    typer.Option(
        "--time",
        help="Newest state at or before this time: 2026-01-31T12:00:00Z, or 90s for 90 seconds ago.",
        show_default=False,
    ),
]
PositionOption = Annotated[
    str, typer.Option("--position", help="State after this write, as EPOCH:SEQUENCE.", show_default=False)
]
Processed = Annotated[
    bool, typer.Option("--latest-processed", help="Newest state already in the vault, without waiting for more.")
]
AppConsistent = Annotated[bool, typer.Option("--latest-app-consistent", help="Newest app-consistent point.")]
Site = Annotated[
    str, typer.Option(help="Recovery site. Default: the site of the machine's target.", show_default=False)
]
Forward = Annotated[
    list[str] | None,
    typer.Option(
        help="Forward a port of the server's host to the machine: HOST:GUEST, or MACHINE=HOST:GUEST for "
        "several machines. Repeatable. Replaces the ports of its target; none forwards no port.",
        show_default=False,
    ),
]
Machines = Annotated[
    list[str],
    typer.Argument(
        metavar="MACHINE...",
        help="The machines' names or ids.",
        show_default=False,
        autocompletion=MACHINES,
    ),
]
CheckOption = Annotated[
    list[str] | None,
    typer.Option(
        "--check",
        metavar="SPEC",
        help=f"{CHECK_HELP}. For one of several machines: MACHINE=SPEC. Replaces the checks of its target; "
        "none runs no check.",
        show_default=False,
    ),
]
Network = Annotated[
    str,
    typer.Option(
        help="Isolated test network of this name, which the site creates. Machines on the same test network "
        "reach each other and nothing else.",
        show_default=False,
    ),
]
Migrate = Annotated[
    bool,
    typer.Option(
        "--migrate",
        help="Move the machine for good: the commit ends its protection and removes the agent. Its points "
        "are kept as retention says.",
    ),
]
AtOnce = Annotated[
    int, typer.Option("--at-once", min=1, max=16, help="Number of machines to fail over at the same time.")
]
OnFailureOption = Annotated[
    OnFailure,
    typer.Option(
        "--on-failure",
        help="If one of several machines fails: go-on with the rest, stop (start no more), or cancel the "
        "running ones too.",
    ),
]
ShutdownOption = Annotated[
    Shutdown,
    typer.Option(
        "--shutdown",
        help="Shut down each source first through its agent, so that no write is lost. If that fails, try "
        "continues without it; require fails and leaves the source running.",
    ),
]
ShutdownWithin = Annotated[
    int, typer.Option(min=10, max=3600, help="Time limit for a source to shut down, in seconds.")
]
ShutdownVmware = Annotated[
    bool,
    typer.Option(
        "--shutdown-vmware",
        help="If the agent does not shut its source down, do it through the VMware server and VMware Tools; "
        "with require, power it off in the end. The source stays off and is marked there.",
    ),
]
FailoverId = Annotated[
    str,
    typer.Argument(
        metavar="FAILOVER",
        help="Failover id or machine name.",
        show_default=False,
        autocompletion=MACHINES,
    ),
]


@app.command()
def run(
    machine: Machines,
    point: PointOption = "",
    time: TimeOption = "",
    position: PositionOption = "",
    latest_app_consistent: AppConsistent = False,
    latest_processed: Processed = False,
    site: Site = "",
    forward: Forward = None,
    check: CheckOption = None,
    migrate: Migrate = False,
    shutdown: ShutdownOption = Shutdown.NO,
    shutdown_within: ShutdownWithin = 180,
    shutdown_vmware: ShutdownVmware = False,
    at_once: AtOnce = 4,
    on_failure: OnFailureOption = OnFailure.GO_ON,
    yes: Yes = False,
    no_wait: NoWait = False,
    as_json: AsJson = False,
) -> None:
    """Fail machines over: fence each source, and bring the machine up from its latest point or the one you choose.

    Prints what will be lost and prompts for confirmation. Other points are kept; `farshore failover commit` makes the
    choice final. Several machines start in the order given, each with its own failover; machines that are up stay up if
    others fail.

    Example: `farshore failover run db1 --forward 5432:5432`,
    or `farshore failover run db1 web1 --forward web1=8080:80`, or `farshore failover run db1 --shutdown require`
    """
    chosen = choice(point, time, position, latest_app_consistent, latest_processed)
    wanted = _wanted(FailoverKind.FAILOVER, machine, forward or [], check, chosen, site, at_once, on_failure)
    first = {
        "migrate": migrate,
        "shutdown": shutdown,
        "shutdown_within": shutdown_within,
        "shutdown_vmware": shutdown_vmware,
    }
    wanted = SeveralFailovers.model_validate({**wanted.model_dump(), **first})
    api = management()
    if not yes:
        check_role(api, Role.OPERATOR)
        for one in machine:
            for line in [*_at_stake(api, one, chosen), *_shutdown_lines(one, wanted)]:
                err.print(line)
        if migrate:
            err.print("This is a migration: the commit ends the protection and removes the agent.")
        where = site or ", ".join(sorted({api.machine(one).readiness.site for one in machine}))
        confirm(f"Fail {', '.join(machine)} over to {where}?")
    _start(api, wanted, no_wait, as_json)


@app.command("test")
def rehearse(
    machine: Machines,
    point: PointOption = "",
    time: TimeOption = "",
    position: PositionOption = "",
    latest_app_consistent: AppConsistent = False,
    latest_processed: Processed = False,
    site: Site = "",
    forward: Forward = None,
    check: CheckOption = None,
    network: Network = "",
    at_once: AtOnce = 4,
    on_failure: OnFailureOption = OnFailure.GO_ON,
    no_wait: NoWait = False,
    as_json: AsJson = False,
) -> None:
    """Bring up copies on isolated networks while production and replication continue. Remove each with `farshore
    failover cleanup`.

    Exits with status 1 if a check fails; the copy stays up in that case too.

    Example: `farshore failover test db1 --time 10m --check ssh:22 --check http:80/health`
    """
    chosen = choice(point, time, position, latest_app_consistent, latest_processed)
    wanted = _wanted(FailoverKind.TEST, machine, forward or [], check, chosen, site, at_once, on_failure)
    wanted = SeveralFailovers.model_validate({**wanted.model_dump(), "network": network})
    _start(management(), wanted, no_wait, as_json)


@app.command("list")
def list_failovers(
    machine: Annotated[str | None, typer.Option(help="Only failovers of this machine.")] = None, as_json: AsJson = False
) -> None:
    """List failovers and test failovers, newest first."""
    api = management()
    found = api.failovers(machine)
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
            failover.condition,
            moment(failover.point_time),
            failover.address,
            failover.message,
        ]
        for failover in found
    ]
    columns = ("Failover", "Machine", "Kind", "State", "Condition", "Point", "Address", "Message")
    print_table(columns, rows, "There are no failovers.")


@app.command()
def show(failover: FailoverId, as_json: AsJson = False) -> None:
    """Show a failover: its state, its machine's condition, the results of checks, and the actions that are possible."""
    found = _newest(management(), failover)
    print_json(found) if as_json else _print(found)


@app.command()
def report(
    failover: FailoverId,
    html: Annotated[Path | None, typer.Option(help="Write the report to this HTML file.", show_default=False)] = None,
    as_json: AsJson = False,
) -> None:
    """Print the report of a failover as JSON, or write it as HTML: checks, RPO and RTO, console and screen.

    Example: `farshore failover report db1 --html db1.html`
    """
    api = management()
    chosen = segment(_newest(api, failover).id)
    found = api.transport.get(f"/v1/failovers/{chosen}/report", FailoverReport)
    if html is not None:
        html.write_text(html_of(found), encoding="utf-8")
    if html is None or as_json:
        print_json(found)
    else:
        out.print(f"Wrote {html}.")


@app.command()
def console(
    failover: FailoverId,
    most: Annotated[int, typer.Option(min=1, max=1 << 20, help="Show at most N bytes from the end.")] = 65536,
    as_json: AsJson = False,
) -> None:
    """Print the recovered machine's console output. It is kept until the failover is deleted.

    Example: `farshore failover console db1`
    """
    api = management()
    chosen = segment(_newest(api, failover).id)
    found = api.transport.get(f"/v1/failovers/{chosen}/console", Console, most=most)
    if as_json:
        print_json(found)
    elif found.size:
        out.print(found.text.replace("\r\n", "\n"))
    else:
        out.print("The console is empty.")


@app.command()
def start(failover: FailoverId, no_wait: NoWait = False, as_json: AsJson = False) -> None:
    """Start a recovered machine that was stopped or has shut down."""
    _act(FailoverAction.START, failover, no_wait, as_json)


@app.command()
def stop(failover: FailoverId, yes: Yes = False, no_wait: NoWait = False, as_json: AsJson = False) -> None:
    """Shut down a recovered machine and keep its disks. `farshore failover start` starts it again from them."""
    question = None if yes else "Shut down the recovered machine of"
    _act(FailoverAction.STOP, failover, no_wait, as_json, question)


@app.command()
def commit(failover: FailoverId, yes: Yes = False, no_wait: NoWait = False, as_json: AsJson = False) -> None:
    """Make a failover final. Other points are kept until the retention period ends."""
    _act(FailoverAction.COMMIT, failover, no_wait, as_json, None if yes else "Commit the")


@app.command()
def reprotect(failover: FailoverId, no_wait: NoWait = False, as_json: AsJson = False) -> None:
    """Replicate a committed machine from its recovery site. Only differences from the failover's point are sent.

    Example: `farshore failover reprotect db1`
    """
    _act(FailoverAction.REPROTECT, failover, no_wait, as_json)


@app.command()
def cleanup(failover: FailoverId, yes: Yes = False, no_wait: NoWait = False, as_json: AsJson = False) -> None:
    """Remove a test failover, or the remains of a failed one. Its record and console output are kept."""
    _act(FailoverAction.CLEAN_UP, failover, no_wait, as_json, None if yes else "Remove the recovered machine of")


@app.command()
def delete(failover: FailoverId, yes: Yes = False, no_wait: NoWait = False, as_json: AsJson = False) -> None:
    """Delete the record and console output of a failover that is over. For a committed one, this destroys its machine
    and all that it has written."""
    question = None if yes else "Forget"
    _act(FailoverAction.DELETE, failover, no_wait, as_json, question)


def parse_forward(pairs: list[str]) -> dict[int, int]:
    """Parse HOST:GUEST pairs. Raises Malformed."""
    forward: dict[int, int] = {}
    for pair in pairs:
        host, _, guest = pair.partition(":")
        if not (host.isdecimal() and guest.isdecimal() and 0 < int(host) < 65536 and 0 < int(guest) < 65536):
            raise Malformed(f"{pair!r} is not a pair of ports.", remedy="Write it as HOST:GUEST, for example 2222:22.")
        forward[int(host)] = int(guest)
    return forward


def forwards(machines: list[str], pairs: list[str]) -> dict[str, dict[int, int] | None]:
    """Parse the forwarded ports of each machine. None, and machines that no pair names, keep those of their target.
    ``none`` alone forwards no port. Raises Malformed if a pair does not name its machine."""
    if pairs == [_NO_PORT]:
        return {machine: {} for machine in machines}
    of: dict[str, list[str]] = {machine: [] for machine in machines}
    for pair in pairs:
        machine, equals, ports = pair.rpartition("=")
        if not equals and len(machines) == 1:
            machine = machines[0]
        if machine not in of:
            raise Malformed(
                f"{pair!r} names none of the machines.", remedy="Write MACHINE=HOST:GUEST, for example web1=8080:80."
            )
        of[machine].append(ports)
    return {machine: parse_forward(ports) if ports else None for machine, ports in of.items()}


def _wanted(
    kind: FailoverKind,
    machines: list[str],
    pairs: list[str],
    specs: list[str] | None,
    point: PointChoice,
    site: str,
    at_once: int,
    on_failure: OnFailure,
) -> SeveralFailovers:
    ports = forwards(machines, pairs)
    checks = checks_of(machines, specs)
    members = [FailoverMember(machine=machine, forward=ports[machine], checks=checks[machine]) for machine in machines]
    return SeveralFailovers(kind=kind, members=members, point=point, site=site, at_once=at_once, on_failure=on_failure)


def _start(api: Management, wanted: SeveralFailovers, no_wait: bool, as_json: bool) -> None:
    """Start the failovers (one job, or one job with a child for each machine), and print how they ended. Exits with
    status 1 if a check failed."""
    if len(wanted.members) > 1:
        job = finish(api, api.fail_over_several(wanted), as_json=as_json, no_wait=no_wait)
        brought_up = [str(one) for one in job.result.get("failovers", {}).values()]
    else:
        (member,) = wanted.members
        asked = api.fail_over(member.machine, wanted.request_of(member))
        job = finish(api, asked, as_json=as_json, no_wait=no_wait)
        brought_up = [str(job.result.get("failover", ""))]
    if no_wait:
        return
    found = [_by_id(api, failover) for failover in brought_up]
    if not as_json:
        for one in found:
            _print(one)
    if any(one.verdict is Verdict.FAILED for one in found):
        raise typer.Exit(1)


def _at_stake(api: Management, machine: str, point: PointChoice) -> list[str]:
    """Return what a failover would lose, in sentences."""
    found = api.machine(machine)
    running = [one for one in api.failovers(found.id) if _is_production(one) and FailoverState(one.state) in UP]
    if running:
        one = running[0]
        lost = _since(one.running)
        return [
            f"{found.name} has run at {one.site} since {moment(one.running)} (failover {one.id}).",
            f"It will be stopped. The new machine lacks its writes of the last {lost}; the commit discards them.",
        ]
    lines = [f"The source of {found.name} will be fenced: its writes from now on are in no recovery point."]
    lines += [
        f"The failover would fail now: {one.message} {one.remedy}"
        for one in found.readiness.obstacles
        if one.severity is TargetSeverity.ERROR
    ]
    if point.id or point.name or point.position or point.latest_app_consistent or point.time is not None:
        chosen = _chosen_time(api, found.id, point)
        after = f"in the last {_since(chosen)}" if chosen else "after the chosen point"
        lines.append(f"Its writes {after} are not in the chosen point." if chosen else f"Its writes {after} are lost.")
    elif found.rpo_seconds is None:
        lines.append("It has no recovery point yet.")
    else:
        lines.append(f"Its writes of about the last {duration(found.rpo_seconds)} are not stored yet and may be lost.")
    return lines


def _shutdown_lines(machine: str, wanted: SeveralFailovers) -> list[str]:
    if wanted.shutdown is Shutdown.NO:
        return []
    trying, within = wanted.shutdown is Shutdown.TRY, wanted.shutdown_within
    otherwise = "the failover continues without it" if trying else "the failover is cancelled"
    if wanted.shutdown_vmware:
        after = "" if trying else ", and then the machine is powered off"
        otherwise = f"VMware Tools try for the same time{after}; its last writes may be lost"
    late = f"If that takes longer than {within} s, {otherwise}."
    return [f"{machine} will be shut down first, so that no write is lost. {late}"]


def _chosen_time(api: Management, machine: str, point: PointChoice) -> int:
    """Return the time of the chosen state in ns, or 0 if no listed point has it, such as a moment between two
    points."""
    if point.time is not None:
        return point.time
    kind = PointKind.APP_CONSISTENT if point.latest_app_consistent else None
    for one in api.points(machine, _MOST_POINTS, kind=kind, name=point.name):
        place = f"{one.epoch}:{one.sequence}"
        if (point.id or one.id) == one.id and (point.position or place) == place:
            return one.time
    return 0


def _since(moment: int) -> str:
    return ago(moment).removesuffix(" ago")


def _print(found: Failover) -> None:
    took = duration((found.running - found.requested) / 1e9) if found.running else ""
    state, test = FailoverState(found.state), not _is_production(found)
    condition = f"{found.condition}, since {moment(found.condition_since)}" if found.condition else ""
    print_fields(
        [
            ("Failover", found.id),
            ("State", found.state),
            ("Condition", f"{condition} (stopped by a user)" if condition and found.stopped else condition),
            ("Point", f"{moment(found.point_time)} ({found.point_epoch}:{found.point_sequence})"),
            ("Proof", found.proof),
            ("Last check", found.checked),
            *_preparation_rows(found),
            *((f"Check {number}", shown_result(one)) for number, one in enumerate(found.evidence.checks, 1)),
            ("Diagnosis", found.evidence.diagnosis),
            ("Source", found.evidence.shutdown),
            *measured(found),
            ("Site", found.site),
            ("Migration", "yes: the commit ends the protection and removes the agent" if found.migrate else ""),
            ("Address", found.address),
            ("Ports", ", ".join(f"{host} → {guest}" for host, guest in found.forward.items())),
            ("Time to start", took),
            ("Message", found.message),
            ("Actions", ", ".join(action.value for action in FailoverAction if applies(action, state, test=test))),
        ]
    )


def _preparation_rows(found: Failover) -> list[tuple[str, str]]:
    """Return the changes made in its guest, one row each."""
    done = found.preparation
    if not done.outcome:
        return []
    said = {"failed": "failed: the guest started unchanged", "undone": "an earlier preparation was undone"}
    rows = [("Preparation", f"{said.get(done.outcome, done.outcome)}{f' ({done.system})' if done.system else ''}")]
    rows += [("Changed", line) for line in done.changes]
    return [*rows, *(("Note", line) for line in done.warnings)]


def _act(action: FailoverAction, failover: str, no_wait: bool, as_json: bool, question: str | None = None) -> None:
    api = management()
    if question is not None:
        check_role(api, Role.CONTRIBUTOR if action is FailoverAction.DELETE else Role.OPERATOR)
    chosen = _find(api, failover, action)
    if question is not None:
        of = api.machine(chosen.machine).name
        if action is FailoverAction.DELETE and chosen.state == FailoverState.COMMITTED.value:
            err.print(
                f"{of} is in production there. This destroys its machine and everything that it has "
                "written since, for good."
            )
            if typer.prompt(f"Type the machine's name ({of}) to continue", err=True) != of:
                raise typer.Abort
        else:
            if action is FailoverAction.COMMIT and chosen.migrate:
                err.print(f"This is a migration: it ends the protection of {of} and removes its agent.")
            confirm(f"{question} {chosen.kind.value} {chosen.id} of {of}?")
    job = api.transport.post(f"/v1/failovers/{segment(chosen.id)}/{action.value}", None, Job)
    finish(api, job, as_json=as_json, no_wait=no_wait)


def _find(api: Management, wanted: str, action: FailoverAction) -> Failover:
    """Find a failover by id, or the only one of a machine that ``action`` applies to. Raises NotFound, Malformed."""
    of = _of_machine(api, wanted)
    if of is None:
        return _by_id(api, wanted)
    fitting = [one for one in of if applies(action, FailoverState(one.state), test=not _is_production(one))]
    if len(fitting) == 1:
        return fitting[0]
    raise Malformed(
        f"{wanted!r} has {len(fitting) or 'no'} failovers that allow {action.value}.",
        remedy="Give a failover id from `farshore failover list`.",
    )


def _newest(api: Management, wanted: str) -> Failover:
    """Find a failover by id, or the newest of a machine, preferring one that still has a recovered machine."""
    of = _of_machine(api, wanted)
    if of is None:
        return _by_id(api, wanted)
    if not of:
        raise Malformed(f"{wanted!r} has no failovers.", remedy="See `farshore failover list`.")
    return next((one for one in of if FailoverState(one.state) in PRESENT), of[0])


def _of_machine(api: Management, wanted: str) -> list[Failover] | None:
    """Return the failovers of the machine with this name or id; None if there is no such machine."""
    if not any(wanted in (machine.id, machine.name) for machine in api.machines()):
        return None
    return api.failovers(wanted)


def _by_id(api: Management, failover: str) -> Failover:
    return api.transport.get(f"/v1/failovers/{segment(failover)}", Failover)


def _is_production(failover: Failover) -> bool:
    return failover.kind is FailoverKind.FAILOVER
