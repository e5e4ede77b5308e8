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
    str, typer.Option("--time", help="The last state by this time: 2026-01-31T12:00:00Z, or 90s.", show_default=False)
]
PositionOption = Annotated[
    str, typer.Option("--position", help="The state at EPOCH:SEQUENCE, any single write.", show_default=False)
]
Processed = Annotated[bool, typer.Option("--latest-processed", help="The newest state in the vault; wait for nothing.")]
AppConsistent = Annotated[bool, typer.Option("--latest-app-consistent", help="The newest app-consistent point.")]
Site = Annotated[str, typer.Option(help="Where to bring it up; empty: where its target says.", show_default=False)]
Forward = Annotated[
    list[str] | None,
    typer.Option(
        help="HOST:GUEST: forward a port of this host to the machine; repeat it. For several machines: "
        "MACHINE=HOST:GUEST. In place of those of its target; none: no port.",
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
        help=f"{CHECK_HELP}; for one of several machines: MACHINE=SPEC. In place of those of its target; none: no "
        "check.",
        show_default=False,
    ),
]
Network = Annotated[
    str,
    typer.Option(
        help="Put them on an isolated network of this name, which the site makes: machines whose tests name the same "
        "one reach each other, and nothing else.",
        show_default=False,
    ),
]
Migrate = Annotated[
    bool,
    typer.Option(
        "--migrate",
        help="One way: the commit ends the protection and takes the agent off; points stay as retention says.",
    ),
]
AtOnce = Annotated[int, typer.Option("--at-once", min=1, max=16, help="How many of several machines at a time.")]
OnFailureOption = Annotated[
    OnFailure,
    typer.Option(
        "--on-failure", help="If one of several fails: go on, stop (start no more), or cancel those under way too."
    ),
]
ShutdownOption = Annotated[
    Shutdown,
    typer.Option(
        "--shutdown",
        help="Have each source shut down first, by its agent, so that nothing is lost. try: go on without where it "
        "cannot be; require: fail then, and leave it running.",
    ),
]
ShutdownWithin = Annotated[int, typer.Option(min=10, max=3600, help="Seconds that a source has to shut down.")]
ShutdownVmware = Annotated[
    bool,
    typer.Option(
        "--shutdown-vmware",
        help="Where an agent does not shut its source down, have the VMware server that has it do so, by VMware tools; "
        "with require it is cut off then. It stays off and is marked there.",
    ),
]
FailoverId = Annotated[
    str,
    typer.Argument(
        metavar="FAILOVER",
        help="The failover's id, or the machine's name.",
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
    """Fail machines over: fence the source of each, and bring it up from the latest point, or the one that you choose.

    All other points stay; `farshore failover commit` makes the choice final. It says first what will be lost, and asks.
    Several machines begin in the order given, each as a failover of its own; those that have come up stay up, whatever
    becomes of the others.

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
            err.print("It is one way: the commit ends the protection, and takes the agent off.")
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
    """Bring copies up beside production, on isolated networks; replication goes on. End each with `cleanup`.

    The exit status is 1 if a check fails; the copy stays up then, too.

    Example: `farshore failover test db1 --time 10m --check ssh:22 --check http:80/health`
    """
    chosen = choice(point, time, position, latest_app_consistent, latest_processed)
    wanted = _wanted(FailoverKind.TEST, machine, forward or [], check, chosen, site, at_once, on_failure)
    wanted = SeveralFailovers.model_validate({**wanted.model_dump(), "network": network})
    _start(management(), wanted, no_wait, as_json)


@app.command("list")
def list_failovers(
    machine: Annotated[str | None, typer.Option(help="Only of this machine.")] = None, as_json: AsJson = False
) -> None:
    """List failovers and tests, the newest first."""
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
    columns = ("Failover", "Machine", "Kind", "State", "Its machine", "Point", "Address", "Message")
    print_table(columns, rows, "There are none.")


@app.command()
def show(failover: FailoverId, as_json: AsJson = False) -> None:
    """Show a failover: its state, how its machine is, what was checked, and what may be done with it."""
    found = _newest(management(), failover)
    print_json(found) if as_json else _print(found)


@app.command()
def report(
    failover: FailoverId,
    html: Annotated[Path | None, typer.Option(help="Write it to this file as HTML.", show_default=False)] = None,
    as_json: AsJson = False,
) -> None:
    """Print all that is kept of a failover as JSON, or write it as HTML: its checks, RPO and RTO, console and screen.

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
        out.print(f"{html} was written.")


@app.command()
def console(
    failover: FailoverId,
    most: Annotated[int, typer.Option(min=1, max=1 << 20, help="How many bytes to show: the newest.")] = 65536,
    as_json: AsJson = False,
) -> None:
    """Print what the recovered machine said on its console; also after it is gone, until the failover is deleted.

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
        out.print("It has said nothing.")


@app.command()
def start(failover: FailoverId, no_wait: NoWait = False, as_json: AsJson = False) -> None:
    """Start a recovered machine that was stopped, or that has shut itself down."""
    _act(FailoverAction.START, failover, no_wait, as_json)


@app.command()
def stop(failover: FailoverId, yes: Yes = False, no_wait: NoWait = False, as_json: AsJson = False) -> None:
    """Shut a recovered machine down. Its disks stay as they are; `start` goes on from them."""
    question = None if yes else "Shut down the recovered machine of"
    _act(FailoverAction.STOP, failover, no_wait, as_json, question)


@app.command()
def commit(failover: FailoverId, yes: Yes = False, no_wait: NoWait = False, as_json: AsJson = False) -> None:
    """Make a failover final. The other recovery points stay until retention ends them."""
    _act(FailoverAction.COMMIT, failover, no_wait, as_json, None if yes else "Make final: the")


@app.command()
def reprotect(failover: FailoverId, no_wait: NoWait = False, as_json: AsJson = False) -> None:
    """Replicate a committed machine from where it runs now: only what differs from the failover's point travels.

    Example: `farshore failover reprotect db1`
    """
    _act(FailoverAction.REPROTECT, failover, no_wait, as_json)


@app.command()
def cleanup(failover: FailoverId, yes: Yes = False, no_wait: NoWait = False, as_json: AsJson = False) -> None:
    """Remove a test failover, or what a failed one left behind. Only its record and its console stay."""
    _act(FailoverAction.CLEAN_UP, failover, no_wait, as_json, None if yes else "Remove the machine of")


@app.command()
def delete(failover: FailoverId, yes: Yes = False, no_wait: NoWait = False, as_json: AsJson = False) -> None:
    """Forget a failover that is over, with its console. A committed one: destroy its machine and all it has written."""
    question = None if yes else "Forget"
    _act(FailoverAction.DELETE, failover, no_wait, as_json, question)


def parse_forward(pairs: list[str]) -> dict[int, int]:
    """HOST:GUEST pairs. Raises Malformed."""
    forward: dict[int, int] = {}
    for pair in pairs:
        host, _, guest = pair.partition(":")
        if not (host.isdecimal() and guest.isdecimal() and 0 < int(host) < 65536 and 0 < int(guest) < 65536):
            raise Malformed(f"{pair!r} is no pair of ports.", remedy="Write it as HOST:GUEST, for example 2222:22.")
        forward[int(host)] = int(guest)
    return forward


def forwards(machines: list[str], pairs: list[str]) -> dict[str, dict[int, int] | None]:
    """The forwarded ports of each machine; None: those of its target, as for each machine that no pair names. ``none``
    by itself: no port for any. Raises Malformed for a pair of which it is not said whose it is."""
    if pairs == [_NO_PORT]:
        return {machine: {} for machine in machines}
    of: dict[str, list[str]] = {machine: [] for machine in machines}
    for pair in pairs:
        machine, equals, ports = pair.rpartition("=")
        if not equals and len(machines) == 1:
            machine = machines[0]
        if machine not in of:
            raise Malformed(
                f"{pair!r} is for none of the machines.", remedy="Write MACHINE=HOST:GUEST, for example web1=8080:80."
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
    """A machine by itself is a job by itself; several are children of one."""
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
    """What a failover would cost, in sentences."""
    found = api.machine(machine)
    running = [one for one in api.failovers(found.id) if _is_production(one) and FailoverState(one.state) in UP]
    if running:
        one = running[0]
        lost = _since(one.running)
        return [
            f"{found.name} runs at {one.site} since {moment(one.running)} (failover {one.id}).",
            f"That machine is stopped. What it wrote in the last {lost} is not in the new one; the commit discards it.",
        ]
    lines = [f"The source of {found.name} is shut out: what it writes from now on is in no point."]
    lines += [
        f"It would not work now: {one.message} {one.remedy}"
        for one in found.readiness.obstacles
        if one.severity is TargetSeverity.ERROR
    ]
    if point.id or point.name or point.position or point.latest_app_consistent or point.time is not None:
        chosen = _chosen_time(api, found.id, point)
        after = f"in the last {_since(chosen)}" if chosen else "after the chosen point"
        lines.append(
            f"What it wrote {after} is not in the chosen point." if chosen else f"What it wrote {after} is lost."
        )
    elif found.rpo_seconds is None:
        lines.append("There is no recovery point of it yet.")
    else:
        lines.append(f"About {duration(found.rpo_seconds)} of what it wrote is not stored yet, and may be lost.")
    return lines


def _shutdown_lines(machine: str, wanted: SeveralFailovers) -> list[str]:
    if wanted.shutdown is Shutdown.NO:
        return []
    trying, within = wanted.shutdown is Shutdown.TRY, wanted.shutdown_within
    otherwise = "it is failed over as it is" if trying else "it is not failed over"
    if wanted.shutdown_vmware:
        after = "" if trying else ", and then it is cut off"
        otherwise = f"VMware tools are asked to, for as long again{after}: its last writes may be lost then"
    return [f"{machine} is shut down first: nothing is lost then. Where that is not done in {within} s, {otherwise}."]


def _chosen_time(api: Management, machine: str, point: PointChoice) -> int:
    """When the chosen state was the machine's (ns); 0 where no listed point tells: a moment between two, for one."""
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
            ("Its machine", f"{condition} (somebody stopped it)" if condition and found.stopped else condition),
            ("Point", f"{moment(found.point_time)} ({found.point_epoch}:{found.point_sequence})"),
            ("Proof", found.proof),
            ("Checked", found.checked),
            *_preparation_rows(found),
            *((f"Check {number}", shown_result(one)) for number, one in enumerate(found.evidence.checks, 1)),
            ("Diagnosis", found.evidence.diagnosis),
            ("Source", found.evidence.shutdown),
            *measured(found),
            ("Site", found.site),
            ("Migration", "one way: the commit ends the protection and takes the agent off" if found.migrate else ""),
            ("Address", found.address),
            ("Ports", ", ".join(f"{host} → {guest}" for host, guest in found.forward.items())),
            ("Running after", took),
            ("Message", found.message),
            ("You can", ", ".join(action.value for action in FailoverAction if applies(action, state, test=test))),
        ]
    )


def _preparation_rows(found: Failover) -> list[tuple[str, str]]:
    """What was done in its guest, a line each."""
    done = found.preparation
    if not done.outcome:
        return []
    said = {"failed": "it could not be prepared: it started as it was", "undone": "an earlier one was taken back"}
    rows = [("Preparation", f"{said.get(done.outcome, done.outcome)}{f' ({done.system})' if done.system else ''}")]
    rows += [("Changed", line) for line in done.changes]
    return [*rows, *(("Mind", line) for line in done.warnings)]


def _act(action: FailoverAction, failover: str, no_wait: bool, as_json: bool, question: str | None = None) -> None:
    api = management()
    if question is not None:
        check_role(api, Role.CONTRIBUTOR if action is FailoverAction.DELETE else Role.OPERATOR)
    chosen = _find(api, failover, action)
    if question is not None:
        of = api.machine(chosen.machine).name
        if action is FailoverAction.DELETE and chosen.state == FailoverState.COMMITTED.value:
            err.print(
                f"{of} runs in production there. Its machine and all it has written since are destroyed for good."
            )
            if typer.prompt(f"To go on, write the name of the machine ({of})", err=True) != of:
                raise typer.Abort
        else:
            if action is FailoverAction.COMMIT and chosen.migrate:
                err.print(f"It is a migration: the protection of {of} ends, and its agent is taken off.")
            confirm(f"{question} {chosen.kind.value} {chosen.id} of {of}?")
    job = api.transport.post(f"/v1/failovers/{segment(chosen.id)}/{action.value}", None, Job)
    finish(api, job, as_json=as_json, no_wait=no_wait)


def _find(api: Management, wanted: str, action: FailoverAction) -> Failover:
    """A failover by id, or the only one of a machine that ``action`` applies to. Raises NotFound, Malformed."""
    of = _of_machine(api, wanted)
    if of is None:
        return _by_id(api, wanted)
    fitting = [one for one in of if applies(action, FailoverState(one.state), test=not _is_production(one))]
    if len(fitting) == 1:
        return fitting[0]
    raise Malformed(
        f"{wanted!r} has {len(fitting) or 'no'} failovers that one could {action.value}.",
        remedy="See `farshore failover list`, and give an id.",
    )


def _newest(api: Management, wanted: str) -> Failover:
    """A failover by id, or of a machine: the newest of which there is something, else the newest."""
    of = _of_machine(api, wanted)
    if of is None:
        return _by_id(api, wanted)
    if not of:
        raise Malformed(f"{wanted!r} was never failed over.", remedy="See `farshore failover list`.")
    return next((one for one in of if FailoverState(one.state) in PRESENT), of[0])


def _of_machine(api: Management, wanted: str) -> list[Failover] | None:
    """Those of the machine with this name or id; None: there is no such machine."""
    if not any(wanted in (machine.id, machine.name) for machine in api.machines()):
        return None
    return api.failovers(wanted)


def _by_id(api: Management, failover: str) -> Failover:
    return api.transport.get(f"/v1/failovers/{segment(failover)}", Failover)


def _is_production(failover: Failover) -> bool:
    return failover.kind is FailoverKind.FAILOVER
