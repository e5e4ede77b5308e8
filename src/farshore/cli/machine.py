"""``farshore machine``: protected machines."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer
from rich.live import Live
from rich.table import Table

from farshore import programs
from farshore.api_types.jobs import Job
from farshore.api_types.machines import (
    CheckSeverity,
    Finding,
    Machine,
    MachineAddition,
    MachineSummary,
    ProofRequest,
    ProtectionRequest,
    SshLogin,
    TokenRequest,
    Uninstallation,
)
from farshore.api_types.users import Role
from farshore.cli import agent_push, by_hand, proof_report, target
from farshore.cli.asking import ask
from farshore.cli.connection import AsJson, MachineName, NoWait, Yes, management
from farshore.cli.following import finish
from farshore.cli.grammar import find_disk
from farshore.cli.logging_in import Account, HostKey, Jump, Password, Port, SshKey, User, credentials
from farshore.cli.output import (
    ago,
    as_json_value,
    duration,
    moment,
    out,
    plain,
    print_done,
    print_fields,
    print_json,
    print_table,
    size,
    table,
)
from farshore.client.management import Management
from farshore.client.transport import segment
from farshore.model.errors import Malformed
from farshore.model.states import MachineState

PACKAGE = "farshore.configuration_server.agent_package"

app = typer.Typer(no_args_is_help=True, help="Protected machines: add, show, protect, watch.")
app.add_typer(target.app, name="target")


@app.command()
def add(
    host: Annotated[
        str,
        typer.Argument(help="Name or address of the machine, reachable from the server by SSH.", show_default=False),
    ],
    ssh_key: SshKey = None,
    password: Password = False,
    account: Account = "",
    ssh_agent: Annotated[
        bool, typer.Option("--ssh-agent", help="Log in from this host, with the keys of your SSH agent.")
    ] = False,
    user: User = "root",
    port: Port = 22,
    jump: Jump = "",
    name: Annotated[str, typer.Option(help="Name of the machine. Default: its host name.")] = "",
    policy: Annotated[str, typer.Option(help="Replication policy.")] = "default",
    protect: Annotated[bool, typer.Option(help="Protect the machine as soon as it is enrolled.")] = True,
    host_key: HostKey = "",
    server_url: Annotated[
        str, typer.Option(help="URL at which the machine reaches this server. Default: the advertised one.")
    ] = "",
    disk: Annotated[
        list[str] | None, typer.Option(help="Protect only this disk, such as /dev/vda. Repeatable.")
    ] = None,
    through: Annotated[
        str,
        typer.Option(
            help="Process server (name or id) at the machine's site that logs in. Default: the configuration "
            "server or, if it cannot reach the machine, the machine's process server or the only one on "
            "a host of its own."
        ),
    ] = "",
    no_wait: NoWait = False,
    as_json: AsJson = False,
) -> None:
    """Install the mobility service on a machine over SSH, then enrol and protect the machine.

    The server logs in with a key, a password or a push account. It stores the secret encrypted and deletes it when the
    job ends. With --through, a process server at the machine's site logs in with the same secret, once. With
    --ssh-agent, this command logs in itself, as the keys never leave your SSH agent; it must run on a host with the
    server part installed. To install without SSH: `farshore token create` prints the commands.

    Example: `farshore machine add web1.example.com --user admin --ssh-key ~/.ssh/id_ed25519 --jump gate.example.com`
    """
    if ssh_agent:
        if ssh_key is not None or password or account or no_wait or through:
            raise Malformed(
                "--ssh-agent cannot be combined with another login or with --no-wait.",
                remedy="Leave out --ssh-key, --password, --account, --through and --no-wait.",
            )
        login = {"host": host, "port": port, "user": user, "jump": jump, "host_key": host_key}
        login |= {"server_url": server_url, "disks": disk or []}
        wanted = TokenRequest(name=name, valid_seconds=agent_push.TOKEN_SECONDS, policy=policy, protect=protect)
        found = agent_push.push(management(), login, wanted, quiet=as_json)
        if as_json:
            print_json(found)
        else:
            out.print(
                f"{found.name} is enrolled and reports."
                if found
                else f"{host} is enrolled already, and its agent has this release."
            )
        return
    key, secret = credentials(ssh_key, password, account)
    request = MachineAddition(
        host=host,
        port=port,
        user=user,
        private_key=key,
        password=secret,
        account=account,
        jump=jump,
        host_key_fingerprint=host_key,
        name=name,
        policy=policy,
        protect=protect,
        server_url=server_url,
        disks=disk or [],
        through=through,
    )
    api = management()
    job = finish(api, api.transport.post("/v1/machines", request, Job), as_json=as_json, no_wait=no_wait)
    if not as_json and not no_wait and "name" in job.result:
        out.print(
            f"{job.result['name']} is enrolled. Follow its initial replication: farshore machine watch "
            f"{job.result['name']}"
        )


@app.command()
def revoke(machine: MachineName, yes: Yes = False, as_json: AsJson = False) -> None:
    """Revoke a machine's certificates at once and close its stream. Its recovery points are kept.

    To admit it again, enrol it with a new token: `farshore token create --machine NAME`.

    Example: `farshore machine revoke web1`
    """
    api = management()
    ask(api, Role.CONTRIBUTOR, f"Revoke {machine}?", yes=yes)
    api.transport.post_nothing(f"/v1/machines/{segment(machine)}/revoke")
    print_done(f"The certificates of {machine} are revoked.", as_json, revoked=machine)


@app.command("list")
def list_machines(
    state: Annotated[MachineState | None, typer.Option(help="Only machines in this state.")] = None,
    policy: Annotated[str | None, typer.Option(help="Only machines with this replication policy.")] = None,
    process_server: Annotated[
        str | None, typer.Option(help="Only machines that send to this process server (name or id).")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List machines with their state and the age of their newest point.

    Example: `farshore machine list --state resync`
    """
    wanted = state.value if state else None, policy, process_server
    if as_json:
        print_json(management().machines(*wanted))
        return
    machines = management().machine_summaries(*wanted)
    if machines:
        print_table(COLUMNS, [line(machine) for machine in machines], "")
    elif state or policy or process_server:
        out.print("No machine matches.")
    else:
        out.print("There are no machines yet. Add one: farshore machine add HOST --ssh-key FILE")


@app.command()
def show(machine: MachineName, as_json: AsJson = False) -> None:
    """Show a machine: state, readiness for failover, capture mode, lag by stage, disks and write accounts."""
    found = management().machine(machine)
    if as_json:
        print_json(found)
    else:
        _print(found)


@app.command()
def check(machine: MachineName, as_json: AsJson = False) -> None:
    """Check a machine for obstacles to its protection. Exits with status 1 if there is an error."""
    findings = management().transport.get_list(f"/v1/machines/{segment(machine)}/check", Finding)
    if as_json:
        print_json(findings)
    else:
        rows = [[found.severity.value, found.subject, found.message, found.remedy] for found in findings]
        print_table(("Severity", "What", "Finding", "Remedy"), rows, "No checks were made.")
    if any(found.severity is CheckSeverity.ERROR for found in findings):
        raise typer.Exit(1)


@app.command()
def protect(
    machine: MachineName,
    policy: Annotated[str | None, typer.Option(help="Replication policy to follow.")] = None,
    exclude_disk: Annotated[
        list[str] | None, typer.Option(help="Exclude this disk (number, name or device). Repeatable.")
    ] = None,
    include_disk: Annotated[list[str] | None, typer.Option(help="Include this disk again. Repeatable.")] = None,
    bandwidth_limit: Annotated[
        int | None, typer.Option(min=0, help="Limit of the stream in MiB/s. 0 for no limit.")
    ] = None,
    cpu_percent: Annotated[
        int | None,
        typer.Option(min=1, max=100, help="CPU limit for copies, in percent of all processors. Initially 10."),
    ] = None,
    memory_limit: Annotated[
        int | None, typer.Option(min=128, help="Memory limit of the agent in MiB, from its next start. Initially 256.")
    ] = None,
    proof_pace: Annotated[
        float | None, typer.Option(min=0, max=10_000, help="Read rate for proving the copy, in MB/s. Initially 2.")
    ] = None,
    process_server: Annotated[
        str | None, typer.Option(help="Process server to prefer while it is healthy. auto for the least busy one.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Allow excluding the boot disk.")] = False,
    as_json: AsJson = False,
) -> None:
    """Protect a machine, or change how it is protected.

    Example: `farshore machine protect db1 --policy gold --exclude-disk 2`
    """
    api = management()
    excluded = None
    if exclude_disk or include_disk:
        disks = api.machine(machine).description.disks
        left_out = {find_disk(disks, one, "--exclude-disk").number for one in exclude_disk or []}
        taken_in = {find_disk(disks, one, "--include-disk").number for one in include_disk or []}
        excluded = sorted(({disk.number for disk in disks if disk.excluded} | left_out) - taken_in)
    limit = None if bandwidth_limit is None else bandwidth_limit << 20
    server = "" if process_server == "auto" else process_server
    request = ProtectionRequest(
        policy=policy,
        exclude_disks=excluded,
        bandwidth_limit=limit,
        cpu_percent=cpu_percent,
        memory_limit=None if memory_limit is None else memory_limit << 20,
        proof_pace=None if proof_pace is None else int(proof_pace * 1e6),
        process_server=server,
        exclude_boot_disk=yes,
    )
    found = api.transport.put(f"/v1/machines/{segment(machine)}/protection", request, Machine)
    print_json(found) if as_json else out.print(f"{found.name} will be protected (policy {found.policy}).")


@app.command()
def unprotect(machine: MachineName, yes: Yes = False, as_json: AsJson = False) -> None:
    """End a machine's protection. Its recovery points are kept until the retention period ends."""
    api = management()
    ask(api, Role.OPERATOR, f"End the protection of {machine}?", yes=yes)
    api.transport.delete(f"/v1/machines/{segment(machine)}/protection")
    print_done(f"{machine} is no longer protected.", as_json, unprotected=machine)


@app.command()
def prove(
    machine: MachineName,
    whole: Annotated[bool, typer.Option("--whole", help="Compare every chunk of every disk.")] = False,
    no_wait: NoWait = False,
    as_json: AsJson = False,
) -> None:
    """Prove that a machine's copy equals its disks, while the machine runs. Exits with status 1 if they differ.

    Without --whole it compares up to 1 GiB: recently copied or missed chunks first, then those proven longest ago or
    never. A chunk that differs is sent again at once, both versions are kept, and points that may be wrong are marked.

    Example: `farshore machine prove db1 --whole`
    """
    api = management()
    started = api.transport.post(f"/v1/machines/{segment(machine)}/proof", ProofRequest(whole=whole), Job)
    job = finish(api, started, as_json=as_json, no_wait=no_wait)
    if no_wait:
        return
    found = job.result["chunks"]
    if not as_json:
        asked = "every chunk" if whole else "up to 1 GiB, the oldest proofs first"
        print_fields(
            [
                ("Machine", machine),
                ("Compared", asked),
                ("Ended", moment(job.ended)),
                *proof_report.outcome(job.result),
            ]
        )
    if found["differing"]:
        raise typer.Exit(1)


@app.command()
def resync(machine: MachineName, as_json: AsJson = False) -> None:
    """Compare a machine with its copy and send the differences. Its points stay usable meanwhile."""
    management().transport.post(f"/v1/machines/{segment(machine)}/resync", None, Machine)
    done = f"{machine} will resync. Follow it: farshore machine watch {machine}"
    print_done(done, as_json, resync=machine)


@app.command()
def upgrade(machine: MachineName, no_wait: NoWait = False, as_json: AsJson = False) -> None:
    """Upgrade a machine's agent to this server's release, without a reboot or a gap in capture.

    The new release is tested first. If it does not work, the agent returns to the old one automatically.
    """
    api = management()
    job = finish(
        api,
        api.transport.post(f"/v1/machines/{segment(machine)}/upgrade", None, Job),
        as_json=as_json,
        no_wait=no_wait,
    )
    if not as_json and not no_wait:
        same = job.result.get("release") == job.result.get("before")
        out.print(f"{machine} runs release {job.result.get('release')}{', unchanged' if same else ''}.")


@app.command()
def delete(
    machine: MachineName,
    uninstall: Annotated[bool, typer.Option("--uninstall", help="Also remove the agent from the machine.")] = False,
    host: Annotated[str, typer.Option(help="SSH address, used if the agent does not answer.")] = "",
    ssh_key: SshKey = None,
    password: Password = False,
    account: Account = "",
    user: User = "root",
    port: Port = 22,
    jump: Jump = "",
    host_key: HostKey = "",
    no_wait: NoWait = False,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Delete an unprotected machine, and print how to remove the agent that remains on it.

    With --uninstall the agent removes itself: program, unit, options, certificate and .hrl file. If it does not answer
    within a minute, the server logs in by SSH, provided that you give a login. The machine's recovery points are kept
    until the retention period ends.

    Example: `farshore machine delete web1 --uninstall --account datacentre --host web1.example.com`
    """
    api = management()
    by_ssh = ssh_key is not None or password or bool(account)
    if not uninstall and (by_ssh or host):
        raise Malformed("An SSH login is only used to remove the agent.", remedy="Add --uninstall.")
    if host and not by_ssh:
        raise Malformed("--host was given without a login.", remedy="Add --account NAME, --ssh-key FILE or --password.")
    ask(api, Role.CONTRIBUTOR, f"Delete {machine}{' and remove its agent' if uninstall else ''}?", yes=yes)
    if uninstall:
        login = None
        if by_ssh:
            key, secret = credentials(ssh_key, password, account)
            login = SshLogin(
                host=host or api.machine(machine).description.hostname,
                port=port,
                user=user,
                private_key=key,
                password=secret,
                account=account,
                jump=jump,
                host_key_fingerprint=host_key,
            )
        _uninstall(api, machine, login, no_wait=no_wait, as_json=as_json)
        return
    api.transport.delete(f"/v1/machines/{segment(machine)}")
    print_done(f"{machine} was deleted.", as_json, deleted=machine, stays_on_machine=list(by_hand.STAYS))
    if not as_json:
        out.print(
            "The mobility service remains on the machine and keeps trying to reach this server. "
            f"{by_hand.STAYS[2]} holds its .hrl file (512 MiB by default). To remove it, run on the "
            "machine as root:"
        )
        for line in by_hand.removal():
            out.print(f"  {line}")


@app.command()
def package(
    output: Annotated[Path, typer.Option(help="File to write.")],
    python: Annotated[str, typer.Option(help="The machine's Python version, 3.9 to 3.14.")] = "3.11",
    as_json: AsJson = False,
) -> None:
    """Write the mobility service to an archive, for installing it by hand. Run this on the server's host.

    Example: `farshore machine package --python 3.9 --output farshore-agent.tar.gz`
    """
    programs.check_installed("farshore machine package", "server")
    command = [sys.executable, "-m", PACKAGE, "--output", str(output), "--python", python]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise typer.Exit(done.returncode)
    print_done(
        f"Wrote release {done.stdout.strip()} to {output}.", as_json, output=str(output), release=done.stdout.strip()
    )


@app.command()
def watch(
    machine: Annotated[str | None, typer.Argument(help="Only this machine.", show_default=False)] = None,
    until_protected: Annotated[
        bool, typer.Option("--until-protected", help="Exit once the machine is protected.")
    ] = False,
    every: Annotated[float, typer.Option(min=0.2, help="Seconds between updates.")] = 1.0,
    as_json: AsJson = False,
) -> None:
    """Watch machines: state, progress of copies, RPO and lag. Ctrl-C ends it.

    If standard output is not a terminal, each update is a new table; with --json, one JSON line.
    """
    api = management()
    with Live(console=out, auto_refresh=False) if out.is_terminal and not as_json else nullcontext() as live:
        while True:
            machines = _some(api, machine)
            if live is not None:
                live.update(_table(machines), refresh=True)
            elif as_json:
                typer.echo(json.dumps(as_json_value(machines)))
            else:
                out.print(_table(machines))
            if until_protected and machines and all(one.state is MachineState.PROTECTED for one in machines):
                return
            time.sleep(every)


def _some(api: Management, machine: str | None) -> list[Machine]:
    return api.machines() if machine is None else [api.machine(machine)]


COLUMNS = ("Machine", "State", "Mode", "Copy", "RPO", "Lag", "Policy", "Seen")


def _table(machines: list[Machine]) -> Table:
    return table(COLUMNS, [line(machine) for machine in machines])


def line(machine: Machine | MachineSummary) -> tuple[str, ...]:
    """Return a machine's row of the columns ``COLUMNS``."""
    rpo = "-" if machine.rpo_seconds is None else duration(machine.rpo_seconds)
    mode = machine.mode.value if machine.mode else "-"
    lag = duration(sum(machine.lag.values())) if machine.lag else "-"
    seen = ago(machine.last_seen)
    return machine.name, machine.state.value, mode, _copy(machine), rpo, lag, machine.policy, seen


def _copy(machine: Machine | MachineSummary) -> str:
    progress = machine.progress
    if progress is None or not progress.total or progress.done >= progress.total:
        return "-"
    left = f", {duration(progress.remaining_seconds)} left" if progress.remaining_seconds else ""
    return f"{progress.done / progress.total:.0%} of {size(progress.total)}{left}"


def _server(machine: Machine) -> str:
    return f"{machine.process_server}, moving to {machine.moving_to}" if machine.moving_to else machine.process_server


def _uninstall(api: Management, machine: str, login: SshLogin | None, *, no_wait: bool, as_json: bool) -> None:
    """Remove the agent and delete the machine, then print what remains on it."""
    path = f"/v1/machines/{segment(machine)}/uninstall"
    started = api.transport.post(path, Uninstallation(login=login), Job)
    job = finish(api, started, as_json=as_json, no_wait=no_wait)
    if as_json or no_wait:
        return
    stays = job.result["stays"]
    out.print(f"{machine} was deleted and its agent removed{', except for:' if stays else '.'}")
    for line in stays:
        out.print(f"  {plain(line)}")


def _print(machine: Machine) -> None:
    description = machine.description
    mode = ""
    if machine.mode:
        since = f" since {moment(machine.mode_since)}" if machine.mode_since else ""
        mode = f"{machine.mode.value}{since}{f': {machine.mode_cause}' if machine.mode_cause else ''}"
    print_fields(
        [
            ("Machine", machine.name),
            ("Id", machine.id),
            ("State", machine.state.value),
            ("Runs at", machine.site),
            (
                "Line",
                f"continues from {machine.line}; points after it on the former line are kept" if machine.line else "",
            ),
            *target.readiness_rows(machine.readiness),
            ("Policy", machine.policy),
            ("Newest point", "none yet" if machine.rpo_seconds is None else f"{duration(machine.rpo_seconds)} old"),
            ("Capture", mode),
            ("RPO", f"a point about every {duration(machine.points_every)}" if machine.points_every else ""),
            ("Copy", "" if _copy(machine) == "-" else _copy(machine)),
            ("Lag", ", ".join(f"{stage} {duration(seconds)}" for stage, seconds in machine.lag.items())),
            ("Process server", _server(machine)),
            ("Epoch", str(machine.epoch) if machine.epoch else ""),
            ("Last seen", ago(machine.last_seen)),
            ("Agent", machine.agent),
            ("Upgrade", f"{machine.upgrade}: farshore machine upgrade {machine.name}" if machine.upgrade else ""),
            ("System", f"{description.operating_system}, Linux {description.kernel}, {description.architecture}"),
            ("Hardware", f"{description.processors} CPU, {size(description.memory)}, {description.firmware.value}"),
            ("Networks", ", ".join(f"{nic.name} {' '.join(nic.addresses)}" for nic in description.nics)),
            *proof_report.standing(machine.proof),
            *(("Warning", warning) for warning in machine.warnings),
        ]
    )
    accounts = {account.disk: account for account in machine.accounts}
    rows = []
    for disk in description.disks:
        account = accounts.get(disk.number)
        counted = [size(account.seen), size(account.captured), account.verdict] if account else ["-", "-", "-"]
        use = "excluded" if disk.excluded else "boot" if disk.boot else ""
        rows.append([str(disk.number), disk.name, size(disk.size), use, *counted])
    out.print()
    print_table(
        ("Disk", "Name", "Size", "", "Written", "Captured", "Accounts"), rows, "The agent has not reported any disks."
    )
