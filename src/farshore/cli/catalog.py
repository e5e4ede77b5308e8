"""``farshore catalog``: make a lost catalog anew from the vault."""

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
    """Make the catalog of the installation on this machine anew, from its vault.

    For a catalog that was lost or damaged while the rest of the installation's folder is there. The present one is put
    aside, not deleted. Everything is known again that the installation kept in the vault; agents resync by hash into
    new epochs. Stop the installation first (`farshore down`), and start it afterwards (`farshore up`).

    Example: `farshore catalog rebuild --yes`
    """
    programs.check_installed("farshore catalog rebuild", "server")
    installation = Installation((state or home()).absolute())
    supervisor.check_not_running(installation)
    if not yes:
        typer.confirm(f"Make the catalog in {installation.home} anew from the vault?", abort=True)
    command = [sys.executable, "-m", SETUP, "--home", str(installation.home), "--rebuild-catalog"]
    done = subprocess.run([*command, *(["--json"] if as_json else [])], check=False)
    if done.returncode:
        raise typer.Exit(done.returncode)
    if as_json:
        print_json(adoption.read(installation.home))
        return
    adoption.show(installation.home, err)
    err.print("The catalog is made. Start the installation: farshore up --detach")
