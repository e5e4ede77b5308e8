"""``farshore process-server``: the servers that take the machines' streams."""

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
    VaultStatus,
)
from farshore.api_types.users import Role
from farshore.cli.asking import ask
from farshore.cli.connection import AsJson, Yes, completion, management
from farshore.cli.grammar import parse_duration
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
    """List process servers and how they are."""
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
    print_table(columns, rows, "No process server has registered.")


@app.command()
def show(server: Name, as_json: AsJson = False) -> None:
    """Show a process server: state, spool, trouble with the store, limits, and its machines with their lag."""
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
    print_table(("Machine", "State", "", *STAGES), rows, "No machine sends to it.")


@app.command()
def add(
    url: Annotated[str, typer.Argument(help="Where machines will reach it: https://HOST:PORT.", show_default=False)],
    name: Annotated[str, typer.Option(help="What to call it; empty: its host.")] = "",
    valid: Annotated[str, typer.Option(help="How long the token can be used: 15m, 1h, 7d.")] = "1h",
    as_json: AsJson = False,
) -> None:
    """Have another process server: make a one-time token with which it enrols.

    Its certificate is made for the host in the URL. On the new server: install Farshore, run
    `farshore-process-server enroll --server URL --authority-fingerprint FINGERPRINT` and give it the token on its
    standard input, then start `farshore-process-server`. It needs the same vault, so the vault must be an object store
    or a folder that both see.

    Example: `farshore process-server add https://ps2.example.com:9443 --name ps2`
    """
    seconds = parse_duration(valid, "--valid", 1, 30 * 86400)
    request = ServerAddition(url=url.rstrip("/"), name=name, valid_seconds=seconds)
    api = management()
    made = api.transport.post(ROOT, request, ServerInvitation)
    if as_json:
        print_json(made)
        return
    print_fields(
        [
            ("Process server", made.name),
            ("Token", made.token),
            ("Server", made.server_url),
            ("Authority fingerprint", made.authority_fingerprint),
            ("Valid until", moment(made.expires)),
        ]
    )
    out.print("It is shown only now, and can be used once. On the new server:")
    out.print(
        f"  farshore-process-server enroll --server {made.server_url} "
        f"--authority-fingerprint {made.authority_fingerprint}"
    )
    vault = api.transport.get("/v1/vault", VaultStatus).url
    if vault.startswith("file:"):
        warning = f"The vault is a folder, {vault}: the new server must see the same folder there."
        out.print(coloured(warning, "yellow"))


@app.command()
def drain(
    server: Name,
    cancel: Annotated[bool, typer.Option("--cancel", help="Take machines again.")] = False,
    as_json: AsJson = False,
) -> None:
    """Have a process server store all it has and hand its machines to others, with nothing to copy again.

    It takes no new machines meanwhile. Follow it with `farshore process-server show`; once it is drained it may be
    stopped or removed. Where no other server is well, its machines stay.
    """
    found = _change(server, ServerChange(draining=not cancel))
    if as_json:
        print_json(found)
    elif cancel:
        out.print(f"{found.name} takes machines again.")
    else:
        out.print(f"{found.name} hands its machines over. Follow it: farshore process-server show {found.name}")


@app.command()
def limit(
    server: Name,
    bandwidth: Annotated[
        list[str] | None,
        typer.Option(
            help="'Mon-Fri 08:00-18:00 20 Mbit/s', '1 MiB/s', 'Sat,Sun unlimited'; repeat it.", metavar="TEXT"
        ),
    ] = None,
    time_zone: Annotated[str | None, typer.Option(help="What the times are meant in: Europe/Berlin.")] = None,
    none: Annotated[bool, typer.Option("--none", help="Drop all limits.")] = False,
    as_json: AsJson = False,
) -> None:
    """Limit how fast a process server writes to the store, by the time of day. It follows within seconds.

    Of several limits the first that fits a moment holds; a moment that none fits has no limit. Machines have limits of
    their own in their policy: `farshore policy update --bandwidth`.

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
    """Shut a process server out at once: its certificates open nothing, its machines go to others.

    What its spool held and the vault does not is lost to it; agents send again what they still have, or resync. To use
    the host again: `farshore process-server remove`, then `add`.

    Example: `farshore process-server revoke ps2`
    """
    api = management()
    ask(api, Role.CONTRIBUTOR, f"Revoke process server {server}?", yes=yes)
    api.transport.post_nothing(f"{ROOT}/{segment(server)}/revoke")
    print_done(f"The certificates of process server {server} open nothing any more.", as_json, revoked=server)


@app.command()
def remove(
    server: Name,
    force: Annotated[bool, typer.Option("--force", help="Give up what a lost server's spool held.")] = False,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Forget a process server that no machine sends to; its certificate opens nothing from then on."""
    api = management()
    ask(api, Role.CONTRIBUTOR, f"Forget process server {server}?", yes=yes)
    api.transport.delete(f"{ROOT}/{segment(server)}{'?force=true' if force else ''}")
    print_done(f"{server} is removed.", as_json, removed=server)


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
            ("Seen", ago(found.last_seen)),
            ("Spool", f"{size(found.spool_bytes)} of {size(found.spool_limit)}"),
            ("Spool's trouble", found.spool_trouble),
            ("Store's trouble", f"{found.store_trouble}{since}" if found.store_trouble else ""),
            ("Bandwidth", f"{limits} ({found.time_zone})" if limits else "no limit"),
            ("Just now", rate(found.rate) if limits else ""),
            ("Machines", str(found.machines)),
            ("Was given the keys of", ", ".join(found.keys_of)),
        ]
    )


def _standing(found: ProcessServer) -> str | Text:
    good = found.standing in (ServerStanding.WELL, ServerStanding.DRAINED)
    return found.standing.value if good else coloured(found.standing.value, "yellow")


def _going(machine: Machine, server: str) -> str:
    if machine.moving_to == server:
        return f"comes from {machine.process_server}"
    return f"goes to {machine.moving_to}" if machine.moving_to else ""


def _lags(machine: Machine) -> list[str]:
    return [duration(machine.lag[stage]) if stage in machine.lag else "-" for stage in map(str.lower, STAGES)]
