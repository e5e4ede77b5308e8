"""``farshore``: joins the command groups, and prints errors with their remedy."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from pydantic import ValidationError
from typer.core import TyperGroup

from farshore import __version__, programs
from farshore.cli import (
    account,
    alert,
    audit,
    authority,
    azure,
    catalog,
    event,
    failback,
    failover,
    job,
    logs,
    machine,
    man,
    master_target,
    point,
    policy,
    process_server,
    server,
    site,
    support_bundle,
    token,
    up,
    user,
    vmware,
)
from farshore.cli.output import coloured, err
from farshore.model.errors import FarshoreError, Malformed
from farshore.model.faults import sentence

EXAMPLES = """Replicate running machines, and bring them up at a recovery site when they are lost.

A first session, on the server's machine:

    farshore up --detach --advertise dr.example.com

    farshore machine add web1.example.com --user root --ssh-key ~/.ssh/id_ed25519

    farshore point list web1

    farshore failover test web1 --forward 2222:22

    farshore failover run web1

With `--json` a command prints one JSON document on standard output. An error is one JSON object on standard
           error, with `code` (listed in docs/errors.md), `message` and `remedy`. Usage errors are plain text.

Exit status: 0 success; 1 a job failed, or an internal error; 2 refused; 3 damaged data; 4 degraded
           (`farshore status`); 75 try later; 77 not allowed.
"""

LOADED_WHEN_USED = {"vault": "farshore.cli.vault"}
"""Groups that need the storage engine, which takes longer to import than most commands take to run."""


class Groups(TyperGroup):
    """The command groups, including those that are imported on first use."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Return all names, in the order of the help."""
        return [*super().list_commands(ctx), *LOADED_WHEN_USED]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return the command or group of that name."""
        module = LOADED_WHEN_USED.get(cmd_name)
        if module is None:
            return super().get_command(ctx, cmd_name)
        group = typer.main.get_command(programs.load(f"farshore {cmd_name}", module, "cli").app)
        group.name = cmd_name
        return group


commands = typer.Typer(
    name="farshore",
    cls=Groups,
    help=EXAMPLES,
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
commands.command()(up.up)
commands.command()(up.down)
commands.command()(up.status)
commands.command()(logs.logs)
commands.command()(man.man)
commands.command()(support_bundle.support_bundle)
commands.add_typer(machine.app, name="machine")
commands.add_typer(policy.app, name="policy")
commands.add_typer(point.app, name="point")
commands.add_typer(failover.app, name="failover")
commands.add_typer(failback.app, name="failback")
commands.add_typer(site.app, name="site")
commands.add_typer(job.app, name="job")
commands.add_typer(event.app, name="event")
commands.add_typer(alert.app, name="alert")
commands.add_typer(audit.app, name="audit")
commands.add_typer(process_server.app, name="process-server")
commands.add_typer(master_target.app, name="master-target")
commands.add_typer(authority.app, name="authority")
commands.add_typer(catalog.app, name="catalog")
commands.add_typer(server.app, name="server")
commands.add_typer(token.app, name="token")
commands.add_typer(account.app, name="account")
commands.add_typer(user.app, name="user")
commands.add_typer(vmware.app, name="vmware")
commands.add_typer(azure.app, name="azure")


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"farshore {__version__}")
        raise typer.Exit


@commands.callback()
def options(
    credentials: Annotated[
        Path | None,
        typer.Option(help="Credentials file of a user. Also: FARSHORE_CREDENTIALS.", show_default=False),
    ] = None,
    url: Annotated[
        str | None, typer.Option(help="Server to use instead of the one in the credentials. Also: FARSHORE_URL.")
    ] = None,
    _show_version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Options before the command."""
    if credentials is not None:
        os.environ["FARSHORE_CREDENTIALS"] = str(credentials)
    if url is not None:
        os.environ["FARSHORE_URL"] = url


def app() -> None:
    """Run the command line. A FarshoreError is printed with its remedy and sets the exit status."""
    try:
        commands()
    except FarshoreError as error:
        _end(error)
    except ValidationError as error:
        # Only a request's: answers of a server and contents of files are checked where they are read.
        fault = error.errors(include_input=False, include_url=False)[0]
        _end(Malformed(f"{_option(fault['loc'])} {sentence(fault)}.", remedy="Give another value; see --help."))


def _option(loc: tuple[int | str, ...]) -> str:
    """Return the option that sets a field of a request, or the field's name in words if no such option was given."""
    names = [part for part in loc if isinstance(part, str)]
    name = names[0].replace("_", "-") if names else "value"
    given = {word.partition("=")[0] for word in sys.argv[1:]}
    option = next((one for one in (f"--{name}", f"--{name.removesuffix('s')}", f"--{name}-name") if one in given), "")
    return option or f"The {name.replace('-', ' ')}"


def _end(error: FarshoreError) -> NoReturn:
    # The failed command no longer knows how it was called.
    if "--json" in sys.argv[1:]:
        typer.echo(json.dumps(error.as_json()), err=True)
    else:
        err.print(coloured("Error:", "red", f" {error.message}"))
        err.print(f"Remedy: {error.remedy}")
    sys.exit(error.exit_status)


if __name__ == "__main__":
    app()
