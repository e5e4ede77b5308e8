"""``farshore server``: backup and restore of the installation on this machine."""

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

app = typer.Typer(help="The installation on this machine: backup and restore.", no_args_is_help=True)

File = Annotated[Path, typer.Argument(metavar="FILE", help="A file that `farshore server backup` wrote.")]


@app.command()
def backup(
    output: Annotated[
        Path | None,
        typer.Option(help="File to write.", show_default="farshore-TIME.backup in the current folder"),
    ] = None,
    state: HomeOption = None,
    as_json: AsJson = False,
) -> None:
    """Back up the installation on this machine to one file, running or not.

    The file holds the catalog with the audit log, the settings, the authority and the other keys. It is encrypted with
    the vault owner's key, which it does not hold. Keep the file and the key on other hosts, apart from each other.
    Recovery points are in the vault, not in the backup.

    Example: `farshore server backup --output /mnt/safe/farshore.backup`
    """
    programs.check_installed("farshore server backup", "server")
    path = output or Path(time.strftime("farshore-%Y%m%dT%H%M%SZ.backup", time.gmtime()))
    written = _ask("--home", str(_installation(state).home), "--back-up", str(path.absolute()), as_json=as_json)
    if as_json:
        print_json(written)
        return
    print_fields([("File", f"{written['path']}, {size(written['size'])}"), *_fields(written)])
    err.print("Keep the file on another host. It opens only with the vault owner's key, which it does not contain.")


@app.command()
def restore(
    file: File,
    key: Annotated[
        Path | None,
        typer.Option(
            help="The vault owner's key file at the time of the backup.",
            show_default="vault.key in the installation's folder",
        ),
    ] = None,
    vault: Annotated[str | None, typer.Option(help="The vault's URL, if it has changed.", metavar="URL")] = None,
    advertise: Annotated[
        list[str] | None,
        typer.Option(help="Name or address at which machines reach this server, if it has changed. Repeatable."),
    ] = None,
    state: HomeOption = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check the file and show its contents without changing anything.")
    ] = False,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Restore an installation from a backup, on the same machine or another one.

    Newer changes come from the vault: machines and where they run, points, failovers, users, certificates and
    revocations. Policies, sites, alert channels, accounts, events and the audit log are as of the backup. A former
    installation that still runs stops writing. Agents resync by hash. An existing catalog is renamed; other files are
    kept. Stop the installation first (`farshore down`), and start it afterwards (`farshore up`).

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
        typer.confirm(f"Restore this installation to {installation.home}?", abort=True)
    command = ["--home", str(installation.home), "--restore", str(file.absolute()), "--key", str(key)]
    command += ["--vault-url", vault] if vault is not None else []
    command += [part for name in advertise or [] for part in ("--advertise", name)]
    _run(*command, as_json=as_json)
    if as_json:
        print_json(adoption.read(installation.home))
        return
    adoption.show(installation.home, err)
    err.print("The installation was restored. Start it: farshore up --detach")


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
