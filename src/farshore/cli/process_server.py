"""``farshore process-server``: the servers that receive the machines' streams."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.text import Text

from farshore.api_types.machines import Machine
from farshore.api_types.servers import (
    ProcessServer,
    ServerAddition,
    ServerChange,
    ServerInvitation,
    ServerStanding,
)
from farshore.api_types.users import Role
from farshore.cli.asking import ask
from farshore.cli.connection import AsJson, Yes, completion, management
from farshore.cli.grammar import parse_duration
from farshore.cli.invitation import print_invitation
from farshore.cli.output import (
    ago,
    as_json_value,
    coloured,
    duration,
    moment,
    out,
    print_done,
    print_fields,
    print_json,
    print_table,
    rate,
    size,
)
from farshore.client.transport import segment

app = typer.Typer(no_args_is_help=True, help="Process servers: list, add, drain, limit, remove.")

Name = Annotated[
    str,
    typer.Argument(
        metavar="SERVER",
        help="The server's name or id.",
        show_default=False,
        autocompletion=completion("/v1/process-servers"),
    ),
]
ROOT = "/v1/process-servers"


@app.command("list")
def list_servers(as_json: AsJson = False) -> None:
    """List process servers and their state."""
    found = management().transport.get_list(ROOT, ProcessServer)
    if as_json:
        print_json(found)
        return
    rows = [
        [
            one.name,
            one.url,
            _standing(one),
            ago(one.last_seen),
            f"{size(one.spool_bytes)} of {size(one.spool_limit)}",
            str(one.machines),
            one.store_trouble,
        ]
        for one in found
    ]
    columns = ("Process server", "Address", "State", "Seen", "Spool", "Machines", "Store")
    print_table(columns, rows, "There are no process servers.")


@app.command()
def show(server: Name, as_json: AsJson = False) -> None:
    """Show a process server: state, spool, store errors, limits, and its machines with their lag."""
    api = management()
    found = api.transport.get(f"{ROOT}/{segment(server)}", ProcessServer)
    senders = [machine for machine in api.machines() if found.name in (machine.process_server, machine.moving_to)]
    if as_json:
        senders_names = [machine.name for machine in senders if machine.process_server == found.name]
        print_json({**as_json_value(found), "machine_names": senders_names})
        return
    _print(found)
    out.print()
    rows = [[machine.name, machine.state.value, _going(machine, found.name), *_lags(machine)] for machine in senders]
    print_table(("Machine", "State", "", *STAGES), rows, "No machine sends to this process server.")


@app.command()
def add(
    url: Annotated[
        str, typer.Argument(help="URL at which machines will reach it: https://HOST:PORT.", show_default=False)
    ],
    name: Annotated[str, typer.Option(help="The process server's name. Default: its host.")] = "",
    valid: Annotated[str, typer.Option(help="Lifetime of the token: 15m, 1h, 7d.")] = "1h",
    as_json: AsJson = False,
) -> None:
    """Add a process server. Prints the one-time token with which it enrols.

    Its certificate is issued for the host in the URL. On the new server: install Farshore, run `farshore-process-server
    enroll --server URL --authority-fingerprint FINGERPRINT` with the token on standard input, then start
    `farshore-process-server`. It writes to the same vault, so the vault must be an object store or a shared folder.

    Example: `farshore process-server add https://ps2.example.com:9443 --name ps2`
    """
    seconds = parse_duration(valid, "--valid", 1, 30 * 86400)
    request = ServerAddition(url=url.rstrip("/"), name=name, valid_seconds=seconds)
    api = management()
    made = api.transport.post(ROOT, request, ServerInvitation)
    if as_json:
        print_json(made)
        return
    print_invitation(api, made, what="Process server", program="farshore-process-server", where="the new server")


@app.command()
def drain(
    server: Name,
    cancel: Annotated[bool, typer.Option("--cancel", help="Stop draining and accept machines again.")] = False,
    as_json: AsJson = False,
) -> None:
    """Drain a process server: it stores everything in its spool and hands its machines to others, without a resync.

    It accepts no new machines meanwhile. Follow it with `farshore process-server show`; once it is drained you can stop
    or remove it. If no other process server is healthy, its machines stay.
    """
    found = _change(server, ServerChange(draining=not cancel))
    if as_json:
        print_json(found)
    elif cancel:
        out.print(f"{found.name} accepts machines again.")
    else:
        out.print(f"{found.name} is draining. Follow it: farshore process-server show {found.name}")


@app.command()
def limit(
    server: Name,
    bandwidth: Annotated[
        list[str] | None,
        typer.Option(
            help="Limit: 'Mon-Fri 08:00-18:00 20 Mbit/s', '1 MiB/s', 'Sat,Sun unlimited'. Repeatable.", metavar="TEXT"
        ),
    ] = None,
    time_zone: Annotated[str | None, typer.Option(help="Time zone of the times in --bandwidth: Europe/Berlin.")] = None,
    none: Annotated[bool, typer.Option("--none", help="Remove all limits.")] = False,
    as_json: AsJson = False,
) -> None:
    """Limit a process server's bandwidth to the store, by time of day. Takes effect within seconds.

    The first limit that covers the current time applies; if none does, bandwidth is unlimited. The limits of machines
    are in their policy: `farshore policy update --bandwidth`.

    Example: `farshore process-server limit ps1 --bandwidth 'Mon-Fri 08:00-18:00 20 Mbit/s' --time-zone Europe/Berlin`
    """
    found = _change(server, ServerChange(bandwidth=[] if none else bandwidth, time_zone=time_zone))
    print_json(found) if as_json else _print(found)


@app.command()
def revoke(
    server: Name,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Revoke a process server's certificates at once. Its machines move to others.

    Data in its spool that is not in the vault is lost: agents send it again if they still have it, or else resync. To
    use the host again: `farshore process-server remove`, then `farshore process-server add`.

    Example: `farshore process-server revoke ps2`
    """
    api = management()
    ask(api, Role.CONTRIBUTOR, f"Revoke process server {server}?", yes=yes)
    api.transport.post_nothing(f"{ROOT}/{segment(server)}/revoke")
    print_done(f"The certificates of process server {server} are revoked.", as_json, revoked=server)


@app.command()
def remove(
    server: Name,
    force: Annotated[bool, typer.Option("--force", help="Discard the spool of a server that is lost.")] = False,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Delete a process server that no machine sends to, and revoke its certificate."""
    api = management()
    ask(api, Role.CONTRIBUTOR, f"Delete process server {server}?", yes=yes)
    api.transport.delete(f"{ROOT}/{segment(server)}{'?force=true' if force else ''}")
    print_done(f"{server} was removed.", as_json, removed=server)


STAGES = ("Capture", "Spill", "Network", "Spool", "Seal", "Store")


def _change(server: str, change: ServerChange) -> ProcessServer:
    return management().transport.call("PATCH", f"{ROOT}/{segment(server)}", change, ProcessServer)


def _print(found: ProcessServer) -> None:
    since = f" (since {moment(found.store_trouble_since)})" if found.store_trouble_since else ""
    limits = ", ".join(found.bandwidth)
    print_fields(
        [
            ("Process server", found.name),
            ("Id", found.id),
            ("Address", found.url),
            ("Version", found.version),
            ("State", _standing(found)),
            ("Temporary", f"for failover {found.temporary_for}" if found.temporary_for else ""),
            ("Seen", ago(found.last_seen)),
            ("Spool", f"{size(found.spool_bytes)} of {size(found.spool_limit)}"),
            ("Spool error", found.spool_trouble),
            ("Store error", f"{found.store_trouble}{since}" if found.store_trouble else ""),
            ("Bandwidth", f"{limits} ({found.time_zone})" if limits else "no limit"),
            ("Limit now", rate(found.rate) if limits else ""),
            ("Machines", str(found.machines)),
            ("Received keys of", ", ".join(found.keys_of)),
        ]
    )


def _standing(found: ProcessServer) -> str | Text:
    good = found.standing in (ServerStanding.WELL, ServerStanding.DRAINED)
    return found.standing.value if good else coloured(found.standing.value, "yellow")


def _going(machine: Machine, server: str) -> str:
    if machine.moving_to == server:
        return f"arriving from {machine.process_server}"
    return f"moving to {machine.moving_to}" if machine.moving_to else ""


def _lags(machine: Machine) -> list[str]:
    return [duration(machine.lag[stage]) if stage in machine.lag else "-" for stage in map(str.lower, STAGES)]
