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
    host: Annotated[str, typer.Argument(help="Name or address that this server reaches by SSH.", show_default=False)],
    ssh_key: SshKey = None,
    password: Password = False,
    account: Account = "",
    ssh_agent: Annotated[
        bool, typer.Option("--ssh-agent", help="Log in from here, with the keys of your SSH agent.")
    ] = False,
    user: User = "root",
    port: Port = 22,
    jump: Jump = "",
    name: Annotated[str, typer.Option(help="What to call the machine; empty: its host name.")] = "",
    policy: Annotated[str, typer.Option(help="Replication policy.")] = "default",
    protect: Annotated[bool, typer.Option(help="Protect it as soon as it has enrolled.")] = True,
    host_key: HostKey = "",
    server_url: Annotated[str, typer.Option(help="Where the machine reaches this server; empty: as advertised.")] = "",
    disk: Annotated[list[str] | None, typer.Option(help="Protect only this disk (/dev/vda); repeat it.")] = None,
    through: Annotated[
        str,
        typer.Option(
            help="Process server (name or id) that logs in, at the machine's site; empty: the configuration server; "
            "where it does not reach the machine, the machine's process server or the only one on a host of its own."
        ),
    ] = "",
    no_wait: NoWait = False,
    as_json: AsJson = False,
) -> None:
    """Install the mobility service on a machine over SSH, enrol and protect it.

    The server logs in, with a key, a password or a push account. What it is given is sealed there and forgotten when
    the job ends. With --through a process server at the machine's site logs in, which is given the same for this one
    time. With --ssh-agent this command logs in itself, on the server's host or where the server part is
    installed: an agent's keys never leave it. Where SSH is not wanted, `farshore token create` prints the commands to
    run by hand.

    Example: `farshore machine add web1.example.com --user admin --ssh-key ~/.ssh/id_ed25519 --jump gate.example.com`
    """
    if ssh_agent:
        if ssh_key is not None or password or account or no_wait or through:
            raise Malformed(
                "--ssh-agent is a way to log in by itself, and this command has to wait for it.",
                remedy="Leave out --ssh-key, --password, --account, --through and --no-wait.",
            )
        login = {"host": host, "port": port, "user": user, "jump": jump, "host_key": host_key}
        login |= {"server_url": server_url, "disks": disk or []}
        wanted = TokenRequest(name=name, valid_seconds=agent_push.TOKEN_SECONDS, policy=policy, protect=protect)
        found = agent_push.push(management(), login, wanted, quiet=as_json)
        if as_json:
            print_json(found)
        else:
            out.print(f"{found.name} reports." if found else f"{host} was enrolled already; its agent is this release.")
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
        out.print(f"{job.result['name']} reports. Follow its first copy: farshore machine watch {job.result['name']}")


@app.command()
def revoke(machine: MachineName, yes: Yes = False, as_json: AsJson = False) -> None:
    """Shut a machine out at once: its certificates open nothing, its stream is closed. Its recovery points stay.

    To let it in again, enrol it with a token of its own: `farshore token create --machine NAME`.

    Example: `farshore machine revoke web1`
    """
    api = management()
    ask(api, Role.CONTRIBUTOR, f"Revoke {machine}?", yes=yes)
    api.transport.post_nothing(f"/v1/machines/{segment(machine)}/revoke")
    print_done(f"The certificates of {machine} open nothing any more.", as_json, revoked=machine)


@app.command("list")
def list_machines(
    state: Annotated[MachineState | None, typer.Option(help="Only those in this state.")] = None,
    policy: Annotated[str | None, typer.Option(help="Only those with this replication policy.")] = None,
    process_server: Annotated[str | None, typer.Option(help="Only those that send to it (name or id).")] = None,
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
        out.print("No machine is like that.")
    else:
        out.print("There are no machines yet. Add one: farshore machine add HOST --ssh-key FILE")


@app.command()
def show(machine: MachineName, as_json: AsJson = False) -> None:
    """Show a machine: state, whether a failover would work now, capture mode, lag by stage, disks and accounts."""
    found = management().machine(machine)
    if as_json:
        print_json(found)
    else:
        _print(found)


@app.command()
def check(machine: MachineName, as_json: AsJson = False) -> None:
    """List what stands in the way of protecting a machine well; exit status 1 where something must be done."""
    findings = management().transport.get_list(f"/v1/machines/{segment(machine)}/check", Finding)
    if as_json:
        print_json(findings)
    else:
        rows = [[found.severity.value, found.subject, found.message, found.remedy] for found in findings]
        print_table(("Severity", "What", "Finding", "Remedy"), rows, "Nothing was looked at.")
    if any(found.severity is CheckSeverity.ERROR for found in findings):
        raise typer.Exit(1)


@app.command()
def protect(
    machine: MachineName,
    policy: Annotated[str | None, typer.Option(help="Follow this policy from now on.")] = None,
    exclude_disk: Annotated[
        list[str] | None, typer.Option(help="Leave this disk out (number, name or device); repeat it.")
    ] = None,
    include_disk: Annotated[list[str] | None, typer.Option(help="Take this disk in again; repeat it.")] = None,
    bandwidth_limit: Annotated[int | None, typer.Option(min=0, help="MiB a second; 0: none.")] = None,
    cpu_percent: Annotated[
        int | None, typer.Option(min=1, max=100, help="Share of the processors that copies keep to; 10 at first.")
    ] = None,
    memory_limit: Annotated[
        int | None, typer.Option(min=128, help="MiB for the agent, from its next start on; 256 at first.")
    ] = None,
    proof_pace: Annotated[
        float | None, typer.Option(min=0, max=10_000, help="MB a second read to prove the copy; 2 at first.")
    ] = None,
    process_server: Annotated[
        str | None, typer.Option(help="Send to this process server while it is well; auto: to the least busy.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Leave out the disk that it starts from, too.")] = False,
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
    print_json(found) if as_json else out.print(f"{found.name} is to be protected (policy {found.policy}).")


@app.command()
def unprotect(machine: MachineName, yes: Yes = False, as_json: AsJson = False) -> None:
    """End a machine's protection. Its points stay until retention ends them."""
    api = management()
    ask(api, Role.OPERATOR, f"End the protection of {machine}?", yes=yes)
    api.transport.delete(f"/v1/machines/{segment(machine)}/protection")
    print_done(f"{machine} is no longer protected.", as_json, unprotected=machine)


@app.command()
def prove(
    machine: MachineName,
    whole: Annotated[bool, typer.Option("--whole", help="Every chunk of every disk.")] = False,
    no_wait: NoWait = False,
    as_json: AsJson = False,
) -> None:
    """Prove that a machine's copy equals its disks, while it works; exit status 1 where it did not.

    Without --whole: what was copied or missed of late, what was never proven or not for longest, up to 1 GiB. What
    differs is sent again at once, both versions are kept, and the points that may be wrong are marked.

    Example: `farshore machine prove db1 --whole`
    """
    api = management()
    started = api.transport.post(f"/v1/machines/{segment(machine)}/proof", ProofRequest(whole=whole), Job)
    job = finish(api, started, as_json=as_json, no_wait=no_wait)
    if no_wait:
        return
    found = job.result["chunks"]
    if not as_json:
        asked = "all of it" if whole else "what needs it most"
        print_fields(
            [
                ("Machine", machine),
                ("Asked for", asked),
                ("Ended", moment(job.ended)),
                *proof_report.outcome(job.result),
            ]
        )
    if found["differing"]:
        raise typer.Exit(1)


@app.command()
def resync(machine: MachineName, as_json: AsJson = False) -> None:
    """Compare a machine with its copy and send what differs. Its points stay usable meanwhile."""
    management().transport.post(f"/v1/machines/{segment(machine)}/resync", None, Machine)
    done = f"{machine} will resync. Follow it: farshore machine watch {machine}"
    print_done(done, as_json, resync=machine)


@app.command()
def upgrade(machine: MachineName, no_wait: NoWait = False, as_json: AsJson = False) -> None:
    """Replace a machine's agent by this server's release: no reboot, and no write goes by unseen.

    The new release is tried out first. If it does not get to work, the one before comes back by itself.
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
        out.print(f"{machine} runs release {job.result.get('release')}{', as before' if same else ''}.")


@app.command()
def delete(
    machine: MachineName,
    uninstall: Annotated[bool, typer.Option("--uninstall", help="Take the agent off the machine, too.")] = False,
    host: Annotated[str, typer.Option(help="Where SSH reaches it, should the agent not answer.")] = "",
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
    """Forget a machine that is not protected, and say what stays on it and how to remove that.

    With --uninstall the agent takes itself off: program, unit, options, certificate and .hrl file. Where it does not
    answer within a minute, the server logs in by SSH, if it was told how. What the vault holds of the machine stays
    until retention ends it.

    Example: `farshore machine delete web1 --uninstall --account datacentre --host web1.example.com`
    """
    api = management()
    by_ssh = ssh_key is not None or password or bool(account)
    if not uninstall and (by_ssh or host):
        raise Malformed("SSH is for taking the agent off.", remedy="Add --uninstall.")
    if host and not by_ssh:
        raise Malformed("SSH needs a way to log in.", remedy="Add --account NAME, --ssh-key FILE or --password.")
    ask(api, Role.CONTRIBUTOR, f"Forget {machine}{' and take its agent off' if uninstall else ''}?", yes=yes)
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
    print_done(f"{machine} is forgotten.", as_json, deleted=machine, stays_on_machine=list(by_hand.STAYS))
    if not as_json:
        out.print(
            f"On the machine the mobility service stays, and tries to reach this server, with {by_hand.STAYS[2]} (the "
            ".hrl file in it takes 512 MiB by default). To remove it, type there, as root:"
        )
        for line in by_hand.removal():
            out.print(f"  {line}")


@app.command()
def package(
    output: Annotated[Path, typer.Option(help="File to write.")],
    python: Annotated[str, typer.Option(help="Version of the machine's Python: 3.9 to 3.14.")] = "3.11",
    as_json: AsJson = False,
) -> None:
    """Write the mobility service as an archive, to bring it to a machine by hand. Run it on the server's host.

    Example: `farshore machine package --python 3.9 --output farshore-agent.tar.gz`
    """
    programs.check_installed("farshore machine package", "server")
    command = [sys.executable, "-m", PACKAGE, "--output", str(output), "--python", python]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise typer.Exit(done.returncode)
    print_done(
        f"{output} holds release {done.stdout.strip()}.", as_json, output=str(output), release=done.stdout.strip()
    )


@app.command()
def watch(
    machine: Annotated[str | None, typer.Argument(help="Only this one.", show_default=False)] = None,
    until_protected: Annotated[bool, typer.Option("--until-protected", help="End once it is protected.")] = False,
    every: Annotated[float, typer.Option(min=0.2, help="Seconds between looks.")] = 1.0,
    as_json: AsJson = False,
) -> None:
    """Watch machines: state, progress of copies, RPO, lag. End with Ctrl-C.

    Where nobody looks, or with --json, each look is printed below the last: with --json, one line of JSON for each.
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
    """A row under ``COLUMNS``."""
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
    """Have the agent taken off and the machine forgotten; say what stays there."""
    path = f"/v1/machines/{segment(machine)}/uninstall"
    started = api.transport.post(path, Uninstallation(login=login), Job)
    job = finish(api, started, as_json=as_json, no_wait=no_wait)
    if as_json or no_wait:
        return
    stays = job.result["stays"]
    out.print(f"{machine} is forgotten, and its agent is off{' but for:' if stays else '.'}")
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
            ("Line", f"grows from {machine.line}; what came after that before stays" if machine.line else ""),
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
    print_table(("Disk", "Name", "Size", "", "Written", "Captured", "Accounts"), rows, "It has told of no disks.")
