"""``farshore catalog``: rebuild a lost catalog from the vault."""

from __future__ import annotations

import subprocess
import sys

import typer

from farshore import programs
from farshore.cli import adoption, supervisor
from farshore.cli.connection import AsJson, Yes, home
from farshore.cli.output import err, print_json
from farshore.cli.supervisor import Installation
from farshore.cli.up import SETUP, HomeOption

app = typer.Typer(help="The configuration server's database.", no_args_is_help=True)


@app.command()
def rebuild(state: HomeOption = None, yes: Yes = False, as_json: AsJson = False) -> None:
    """Rebuild the catalog of the installation on this machine from its vault.

    Use it if the catalog is lost or damaged and the rest of the installation's folder is intact. The old catalog is
    renamed, not deleted. Everything that the installation kept in the vault comes back; agents resync by hash. Stop the
    installation first (`farshore down`), and start it afterwards (`farshore up`).

    Example: `farshore catalog rebuild --yes`
    """
    programs.check_installed("farshore catalog rebuild", "server")
    installation = Installation((state or home()).absolute())
    supervisor.check_not_running(installation)
    if not yes:
        typer.confirm(f"Rebuild the catalog in {installation.home} from the vault?", abort=True)
    command = [sys.executable, "-m", SETUP, "--home", str(installation.home), "--rebuild-catalog"]
    done = subprocess.run([*command, *(["--json"] if as_json else [])], check=False)
    if done.returncode:
        raise typer.Exit(done.returncode)
    if as_json:
        print_json(adoption.read(installation.home))
        return
    adoption.show(installation.home, err)
    err.print("The catalog was rebuilt. Start the installation: farshore up --detach")
