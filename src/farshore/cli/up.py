"""``farshore up``, ``down`` and ``status``: a whole installation on this machine.

``up`` sets up what is missing, then keeps a configuration server, a process server and a master target running. It
speaks to them like any other client; it starts them as programs and shares no code with them.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from farshore import programs
from farshore.api_types.events import Alert, Severity
from farshore.api_types.servers import ProcessServer, ServerStanding, ServerStatus, VaultStatus
from farshore.cli import adoption, supervisor
from farshore.cli.connection import AsJson, home, management
from farshore.cli.output import ago, coloured, err, out, plain, print_done, print_fields, print_json, print_table, size
from farshore.cli.supervisor import Installation
from farshore.model.errors import FarshoreError, Forbidden, Malformed, TryLater, Unauthenticated
from farshore.telemetry import logs

READY_SECONDS = 300.0
"""Far more than a start takes; servers that cannot start end this sooner, as the supervisor gives them up."""
POLL_SECONDS = 0.2

SETUP = "farshore.configuration_server.setup"


def _folder(text: str) -> Path:
    """Raises Malformed for an empty name: it would stand for the folder that one is in."""
    if not str(text).strip():
        raise Malformed("--home is empty.", remedy="Name a folder, or leave the option out.")
    return Path(text)


HomeOption = Annotated[
    Path | None,
    typer.Option(
        "--home",
        parser=_folder,
        metavar="FOLDER",
        help="State folder; wins over FARSHORE_HOME. [default: /var/lib/farshore]",
    ),
]


LONGEST_HOME = 50
"""Bytes: /sites/qemu/, an id of 36 characters and /qmp.sock follow, and a socket's path has 107."""
SET_UP = "configuration-server.toml"
"""A home that has it was set up before."""
DEGRADED = 4
"""Exit status of ``farshore status`` where the servers answer and something is wrong."""


def _installation(state: Path | None) -> Installation:
    # Absolute, for what runs in the background has another working directory.
    folder = (state or home()).absolute()
    try:
        os.lstat(folder / "run" / "state.json")
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return Installation(folder)
    except OSError as error:
        raise Malformed(
            f"An installation cannot be in {folder}: {error.strerror}.", remedy="Choose another folder with --home."
        ) from error
    return Installation(folder)


def up(
    state: HomeOption = None,
    listen: Annotated[str | None, typer.Option(help="Address to listen on; all unless told otherwise.")] = None,
    port: Annotated[int | None, typer.Option(min=1, max=65535, help="Port of the API.", show_default="443")] = None,
    process_server_port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Port that machines replicate to.", show_default="9443")
    ] = None,
    advertise: Annotated[
        list[str] | None,
        typer.Option(help="Name or address at which machines reach this server; repeat it. They are told the first."),
    ] = None,
    standby: Annotated[
        list[str] | None,
        typer.Option(
            help="Where an installation that takes this one's place would be reached; agents look there when this "
            "server is gone. Repeat it.",
            metavar="HTTPS://HOST:PORT",
        ),
    ] = None,
    vault: Annotated[
        str | None, typer.Option(help="Where the copies go: file:///path, s3://bucket, az://container, gs://bucket.")
    ] = None,
    adopt_vault: Annotated[
        str | None,
        typer.Option(
            help="Take the place of an installation that is lost: everything is made from its vault. Needs --key.",
            metavar="URL",
        ),
    ] = None,
    key: Annotated[Path | None, typer.Option(help="With --adopt-vault: the vault owner's key file.")] = None,
    master_target: Annotated[
        bool | None,
        typer.Option(
            "--master-target/--no-master-target",
            help="Run a master target too, which writes disks that survived at home.",
            show_default="--master-target",
        ),
    ] = None,
    detach: Annotated[
        bool, typer.Option("--detach", help="Run in the background, and return once it answers.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Run a whole Farshore installation on this machine: configuration server, process server, master target, vault.

    The first time it sets itself up: certificate authority, keys, catalog, a vault in a local folder, and the
    administrator's credentials (admin.json, mode 0600), which the other commands use by themselves. Options are
    remembered. It runs in the foreground until Ctrl-C or SIGTERM, and starts again what crashes.

    Example: `farshore up --detach --advertise dr.example.com --vault s3://dr-vault`

    When the site is lost, servers and all, `--adopt-vault` makes an installation in a new place that knows every
    machine, point and policy, and can fail over at once. The lost one, should it still live, stops writing. See
    docs/operate/site-lost.md.

    Example: `farshore up --detach --advertise far.example.com --adopt-vault s3://dr-vault --key vault.key`
    """
    programs.check_installed("farshore up", "server")
    installation = _installation(state)
    given: dict[str, object] = {
        "--listen": listen,
        "--port": port,
        "--process-server-port": process_server_port,
        "--vault-url": vault,
        "--adopt-vault": adopt_vault,
        "--key": key,
    }
    if (adopt_vault is None) != (key is None) or (adopt_vault is not None and vault is not None):
        raise Malformed(
            "A vault is adopted with its owner's key, and is the vault of the installation.",
            remedy="Give --adopt-vault URL and --key FILE, and no --vault.",
        )
    arguments = [part for name, value in given.items() if value is not None for part in (name, str(value))]
    arguments += [part for name in advertise or [] for part in ("--advertise", name)]
    arguments += [part for url in standby or [] for part in ("--standby", url)]
    if master_target is not None:
        arguments.append("--master-target" if master_target else "--no-master-target")
    arguments += ["--json"] if as_json else []
    arguments += ["--check-ports"]
    _check_length(installation.home, quiet=as_json)
    supervisor.check_not_running(installation)
    done = subprocess.run([sys.executable, "-m", SETUP, "--home", str(installation.home), *arguments], check=False)
    if done.returncode:
        raise typer.Exit(done.returncode)
    if adopt_vault is not None and not as_json:
        adoption.show(installation.home, err)
    if detach:
        supervisor.start_in_background(installation)
        try:
            _wait_until_ready(installation)
        except FarshoreError:
            if not as_json:
                err.print(supervisor.last_log_lines(installation))
            supervisor.stop(installation)
            raise
        _greet(installation, as_json, adopted=adopt_vault is not None)
        return
    logs.configure(supervisor.PROGRAM)
    supervisor.run(installation, when_started=lambda: _report_ready(installation, as_json))


def _check_length(folder: Path, *, quiet: bool) -> None:
    """Sockets of exports and of recovered machines lie below the home, and the kernel bounds their paths. Raises
    Malformed for a new home that leaves them no room. One that is there goes on: it holds what machines replicate, and
    other sites may bring them up."""
    length = len(os.fsencode(folder))
    if length <= LONGEST_HOME:
        return
    what = f"{folder} has {length} bytes. Machines can be brought up there only if it has {LONGEST_HOME} at most"
    if not (folder / SET_UP).exists():
        raise Malformed(f"{what}.", remedy="Choose a shorter --home.")
    if not quiet:
        err.print(f"{what}: stop the servers, move the folder to a shorter path, and name that with --home.")


def down(state: HomeOption = None, as_json: AsJson = False) -> None:
    """Stop the installation on this machine. Recovered machines keep running."""
    stopped = supervisor.stop(_installation(state))
    print_done("Stopped." if stopped else "It was not running.", as_json, stopped=stopped)


def status(state: HomeOption = None, as_json: AsJson = False) -> None:
    """Show how the installation is: servers, vault, what is wrong.

    Exit status: 0 where all is well, 4 where it is degraded (the reasons are shown), 75 where it does not answer.
    """
    running = supervisor.is_running(_installation(state))
    api = management(state)
    server = api.transport.get("/v1/status", ServerStatus)
    process_servers = api.transport.get_list("/v1/process-servers", ProcessServer)
    vault = api.transport.get("/v1/vault", VaultStatus)
    alerts = api.transport.get_list("/v1/alerts", Alert)
    machines = api.machines()
    reasons = _reasons(process_servers, vault, alerts)
    state_word = "degraded" if reasons else "well"
    if as_json:
        print_json(
            {
                "state": state_word,
                "reasons": reasons,
                "version": server.version,
                "authority_fingerprint": server.authority_fingerprint,
                "supervised_here": running,
                "process_servers": process_servers,
                "vault": vault,
                "machines": len(machines),
                "alerts": alerts,
            }
        )
        if reasons:
            raise typer.Exit(DEGRADED)
        return
    print_fields(
        [
            ("State", coloured(state_word, "red" if reasons else "green")),
            ("Configuration server", f"{api.transport.url}, version {server.version}"),
            ("Authority", server.authority_fingerprint),
            ("Vault", vault.url if vault.reachable else Text.assemble(vault.url, " ", (plain(vault.trouble), "red"))),
            ("Machines", str(len(machines))),
        ]
    )
    out.print()
    rows = [
        [
            one.name,
            one.url,
            one.standing.value if one.healthy else coloured(one.standing.value, "red"),
            ago(one.last_seen),
            f"{size(one.spool_bytes)} of {size(one.spool_limit)}",
            str(one.machines),
            one.store_trouble,
        ]
        for one in process_servers
    ]
    columns = ("Process server", "Address", "State", "Seen", "Spool", "Machines", "Store")
    print_table(columns, rows, "No process server has registered.")
    for alert in alerts:
        out.print(coloured(alert.message, "red", f" {alert.remedy}"))
    if reasons:
        raise typer.Exit(DEGRADED)


def _reasons(process_servers: list[ProcessServer], vault: VaultStatus, alerts: list[Alert]) -> list[str]:
    """Why the installation is degraded; none where all is well."""
    found = [alert.message for alert in alerts if alert.severity is not Severity.INFORMATION]
    if not vault.reachable:
        found.append(f"The vault cannot be reached: {vault.trouble}")
    for one in process_servers:
        troubles = [one.spool_trouble, one.store_trouble]
        if one.standing in (ServerStanding.SILENT, ServerStanding.FULL):
            troubles.append(f"It is {one.standing.value}.")
        found += [f"Process server {one.name}: {trouble}" for trouble in troubles if trouble]
    if not process_servers:
        found.append("No process server has registered.")
    return found


def _wait_until_ready(installation: Installation) -> None:
    """Until the API answers and a process server reports, or the vault turns out to be away, for which both wait.
    Raises the last reason for which it is not so."""
    give_up = time.monotonic() + READY_SECONDS
    while True:
        try:
            servers = installation.api().transport.get_list("/v1/process-servers", ProcessServer)
            if any(server.healthy and server.last_seen >= installation.started() for server in servers):
                return
            vault = installation.api().transport.get("/v1/vault", VaultStatus)
            if not vault.reachable:
                what = f" The vault cannot be reached: {vault.trouble} Machines keep what they write until it answers."
                err.print(coloured("Note:", "yellow", what))
                return
            trouble = TryLater("The process server does not report.", remedy="See the log.")
        except TryLater as error:
            trouble = error
        except (Forbidden, Unauthenticated):
            # It answers. That the administrator was deleted or revoked is no reason to stop the servers.
            what = f" {installation.credentials} opens nothing: its user was deleted or revoked. Use another's."
            err.print(coloured("Note:", "yellow", what))
            return
        if time.monotonic() > give_up or not supervisor.is_running(installation):
            raise trouble
        time.sleep(POLL_SECONDS)


def _report_ready(installation: Installation, as_json: bool) -> None:
    try:
        _wait_until_ready(installation)
    except FarshoreError as error:
        err.print(coloured("Not ready yet:", "yellow", f" {error}"))
    else:
        _greet(installation, as_json)


def _greet(installation: Installation, as_json: bool, *, adopted: bool = False) -> None:
    if as_json:
        url, credentials, key = installation.api().transport.url, installation.credentials, installation.vault_key
        told = {"adopted": adoption.read(installation.home)} if adopted else {}
        print_json({"url": url, "credentials": str(credentials), "vault_key": str(key), **told})
        return
    err.print(coloured("Farshore is ready", "green", f" at {installation.api().transport.url}."))
    err.print(f"Administrator's credentials: {installation.credentials}")
    err.print(f"Key of the vault: {installation.vault_key}. Keep a copy elsewhere: without it no copy can be read.")
