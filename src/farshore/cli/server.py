"""``farshore server``: a backup of the installation on this machine, and the installation made from one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from farshore import programs
from farshore.cli import adoption, supervisor
from farshore.cli.connection import AsJson, Yes, home
from farshore.cli.output import ago, err, print_fields, print_json, size
from farshore.cli.supervisor import Installation
from farshore.cli.up import SETUP, HomeOption
from farshore.model.errors import NotFound

app = typer.Typer(help="The installation on this machine: back it up, restore it.", no_args_is_help=True)

File = Annotated[Path, typer.Argument(metavar="FILE", help="A file that `farshore server backup` wrote.")]


@app.command()
def backup(
    output: Annotated[
        Path | None,
        typer.Option(help="The new file.", show_default="farshore-TIME.backup in the folder that you are in"),
    ] = None,
    state: HomeOption = None,
    as_json: AsJson = False,
) -> None:
    """Back up the installation on this machine into one file, while it runs or not.

    The file holds the catalog with its whole audit log, the settings, the authority and every other key of the
    installation but the vault owner's: with that key it is sealed. Keep it away from this host, and the key elsewhere.
    The copies of machines are in the vault, not in a backup.

    Example: `farshore server backup --output /mnt/safe/farshore.backup`
    """
    programs.check_installed("farshore server backup", "server")
    path = output or Path(time.strftime("farshore-%Y%m%dT%H%M%SZ.backup", time.gmtime()))
    written = _ask("--home", str(_installation(state).home), "--back-up", str(path.absolute()), as_json=as_json)
    if as_json:
        print_json(written)
        return
    print_fields([("File", f"{written['path']}, {size(written['size'])}"), *_fields(written)])
    err.print("Keep it away from this host. It opens with the vault owner's key alone; it does not hold that key.")


@app.command()
def restore(
    file: File,
    key: Annotated[
        Path | None,
        typer.Option(
            help="The vault owner's key file, as it was when the backup was made.",
            show_default="vault.key in the installation's folder",
        ),
    ] = None,
    vault: Annotated[
        str | None, typer.Option(help="Where the installation's vault is now, if not where it was.", metavar="URL")
    ] = None,
    advertise: Annotated[
        list[str] | None,
        typer.Option(help="Name or address at which machines reach this server, if not the former one; repeat it."),
    ] = None,
    state: HomeOption = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check the file, show what it holds, change nothing.")
    ] = False,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Make the installation of a backup, on the machine where it was or on another one.

    What happened since comes from the vault: machines and where they run, points, failovers, users, certificates and
    who was revoked. The backup gives policies, sites, alert channels and accounts as they were, events and the audit
    log. A former installation that still lives stops writing. Agents resync by hash. A catalog that is there is put
    aside, other files that are there stay. Stop the installation first (`farshore down`), and start it afterwards
    (`farshore up`).

    Example: `farshore server restore /mnt/safe/farshore.backup --key vault.key`
    """
    programs.check_installed("farshore server restore", "server")
    installation = _installation(state)
    key = (key or installation.vault_key).absolute()
    if not key.exists():
        raise NotFound(f"There is no key file {key}.", remedy="Give the vault owner's key file with --key.")
    found = _ask("--show-backup", str(file.absolute()), "--key", str(key), as_json=as_json)
    if dry_run:
        print_json(found) if as_json else print_fields(_fields(found))
        return
    supervisor.check_not_running(installation)
    if not yes:
        print_fields(_fields(found))
        typer.confirm(f"Make this installation in {installation.home}?", abort=True)
    command = ["--home", str(installation.home), "--restore", str(file.absolute()), "--key", str(key)]
    command += ["--vault-url", vault] if vault is not None else []
    command += [part for name in advertise or [] for part in ("--advertise", name)]
    _run(*command, as_json=as_json)
    if as_json:
        print_json(adoption.read(installation.home))
        return
    adoption.show(installation.home, err)
    err.print("The installation is restored. Start it: farshore up --detach")


def _installation(state: Path | None) -> Installation:
    return Installation((state or home()).absolute())


def _fields(contents: dict[str, Any]) -> list[tuple[str, str]]:
    moment = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(contents["time"] // 1_000_000_000))
    rows = contents["rows"]
    return [
        ("Made", f"{moment} ({ago(contents['time'])}) by release {contents['release']}"),
        ("Installation", contents["installation"]),
        ("Vault", contents["vault"]),
        ("Machines", str(rows.get("machines", 0))),
        ("Policies", str(rows.get("policies", 0))),
        ("Users", str(rows.get("users", 0))),
        ("Audit log", f"{rows.get('audit', 0)} entries"),
        ("Files", str(len(contents["files"]))),
    ]


def _ask(*arguments: str, as_json: bool) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(_run(*arguments, as_json=as_json, read=True))
    return found


def _run(*arguments: str, as_json: bool, read: bool = False) -> str:
    command = [sys.executable, "-m", SETUP, *arguments, *(["--json"] if as_json else [])]
    done = subprocess.run(command, env=os.environ, stdout=subprocess.PIPE if read else None, text=True, check=False)
    if done.returncode:
        raise typer.Exit(done.returncode)
    return done.stdout or ""
