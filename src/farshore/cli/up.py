"""``farshore up``, ``down`` and ``status``: a complete installation on this machine.

``up`` sets up what is missing, then supervises a configuration server, a process server and a master target. It starts
them as programs and talks to them through the REST API, and shares no code with them.
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
"""Much longer than a start takes. Servers that cannot start end the wait sooner, as the supervisor gives up."""
POLL_SECONDS = 0.2

SETUP = "farshore.configuration_server.setup"


def _folder(text: str) -> Path:
    """Parse --home. Raises Malformed for an empty name, which would mean the current folder."""
    if not str(text).strip():
        raise Malformed("--home is empty.", remedy="Name a folder, or omit the option.")
    return Path(text)


HomeOption = Annotated[
    Path | None,
    typer.Option(
        "--home",
        parser=_folder,
        metavar="FOLDER",
        help="Folder of the installation. Overrides FARSHORE_HOME. [default: /var/lib/farshore]",
    ),
]


LONGEST_HOME = 50
"""In bytes: /sites/qemu/, an id of 36 characters and /qmp.sock follow, and the path of a socket is limited to 107."""
SET_UP = "configuration-server.toml"
"""A folder with this file was set up before."""
DEGRADED = 4
"""Exit status of ``farshore status`` if the servers answer and something is wrong."""


def _installation(state: Path | None) -> Installation:
    # Absolute, because the background process has another working directory.
    folder = (state or home()).absolute()
    try:
        os.lstat(folder / "run" / "state.json")
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return Installation(folder)
    except OSError as error:
        raise Malformed(
            f"The folder {folder} cannot hold an installation: {error.strerror}.",
            remedy="Choose another folder with --home.",
        ) from error
    return Installation(folder)


def up(
    state: HomeOption = None,
    listen: Annotated[str | None, typer.Option(help="Address to listen on. Default: all addresses.")] = None,
    port: Annotated[int | None, typer.Option(min=1, max=65535, help="Port of the API.", show_default="443")] = None,
    process_server_port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Port that machines replicate to.", show_default="9443")
    ] = None,
    advertise: Annotated[
        list[str] | None,
        typer.Option(
            help="Name or address at which machines reach this server. Repeatable. Agents connect to the first."
        ),
    ] = None,
    standby: Annotated[
        list[str] | None,
        typer.Option(
            help="URL of an installation that could replace this one. Agents try it when this server is gone. "
            "Repeatable.",
            metavar="HTTPS://HOST:PORT",
        ),
    ] = None,
    vault: Annotated[
        str | None, typer.Option(help="URL of the vault: file:///path, s3://bucket, az://container or gs://bucket.")
    ] = None,
    adopt_vault: Annotated[
        str | None,
        typer.Option(
            help="Replace a lost installation: rebuild everything from its vault. Needs --key.",
            metavar="URL",
        ),
    ] = None,
    key: Annotated[Path | None, typer.Option(help="The vault owner's key file, for --adopt-vault.")] = None,
    master_target: Annotated[
        bool | None,
        typer.Option(
            "--master-target/--no-master-target",
            help="Also run a master target, which writes surviving disks at home.",
            show_default="--master-target",
        ),
    ] = None,
    detach: Annotated[
        bool, typer.Option("--detach", help="Run in the background, and return once the server answers.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Run a complete Farshore installation on this machine: configuration server, process server, master target, vault.

    The first start sets up the certificate authority, keys, catalog, a vault in a local folder, and the administrator's
    credentials (admin.json, mode 0600), which other commands use automatically. Options are remembered. It runs in the
    foreground until Ctrl-C or SIGTERM, and restarts servers that crash.

    Example: `farshore up --detach --advertise dr.example.com --vault s3://dr-vault`

    If the whole site is lost, `--adopt-vault` makes an installation elsewhere that knows every machine, point and
    policy and can fail over at once. If the lost installation still runs, it stops writing. See
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
            "--adopt-vault needs --key and replaces --vault.",
            remedy="Give --adopt-vault URL and --key FILE, without --vault.",
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
    """Check the length of the folder's path: sockets lie below it, and the kernel limits their paths. Raises Malformed
    for a new installation. An existing one gets a warning only, as other sites may still bring its machines up."""
    length = len(os.fsencode(folder))
    if length <= LONGEST_HOME:
        return
    what = f"The path {folder} has {length} bytes; machines can be brought up there only with at most {LONGEST_HOME}"
    if not (folder / SET_UP).exists():
        raise Malformed(f"{what}.", remedy="Choose a shorter --home.")
    if not quiet:
        err.print(f"{what}. Stop the servers, move the folder to a shorter path, and give that with --home.")


def down(state: HomeOption = None, as_json: AsJson = False) -> None:
    """Stop the installation on this machine. Recovered machines keep running."""
    stopped = supervisor.stop(_installation(state))
    print_done(
        "The installation was stopped." if stopped else "The installation was not running.", as_json, stopped=stopped
    )


def status(state: HomeOption = None, as_json: AsJson = False) -> None:
    """Show the state of the installation: servers, vault, open alerts.

    Exit status: 0 healthy; 4 degraded, with the reasons; 75 if the installation does not answer.
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
    print_table(columns, rows, "There are no process servers.")
    for alert in alerts:
        out.print(coloured(alert.message, "red", f" {alert.remedy}"))
    if reasons:
        raise typer.Exit(DEGRADED)


def _reasons(process_servers: list[ProcessServer], vault: VaultStatus, alerts: list[Alert]) -> list[str]:
    """Return the reasons why the installation is degraded; none if it is healthy."""
    found = [alert.message for alert in alerts if alert.severity is not Severity.INFORMATION]
    if not vault.reachable:
        found.append(f"The vault cannot be reached: {vault.trouble}")
    for one in process_servers:
        troubles = [one.spool_trouble, one.store_trouble]
        if one.standing in (ServerStanding.SILENT, ServerStanding.FULL):
            troubles.append(f"its state is {one.standing.value}.")
        found += [f"Process server {one.name}: {trouble}" for trouble in troubles if trouble]
    if not process_servers:
        found.append("There are no process servers.")
    return found


def _wait_until_ready(installation: Installation) -> None:
    """Wait until the API answers and a process server reports, or until the vault is known to be unreachable, which
    both wait for. Raises the last error on a timeout."""
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
            trouble = TryLater(
                "The process server has not reported.", remedy="Read its log: farshore logs process-server"
            )
        except TryLater as error:
            trouble = error
        except (Forbidden, Unauthenticated):
            # It answers. That the administrator was deleted or revoked is no reason to stop the servers.
            what = f" The user of {installation.credentials} was deleted or revoked. Use another user's credentials."
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
    err.print(
        f"Key of the vault: {installation.vault_key}. Keep a copy elsewhere: without the key no recovery "
        "point can be read."
    )
