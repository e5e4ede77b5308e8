"""How commands reach the server, and the options that many of them share."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from farshore.client.credentials import Credentials
from farshore.client.management import Management
from farshore.client.transport import Transport

DEFAULT_HOME = "/var/lib/farshore"

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table, for scripts.")]
NoWait = Annotated[bool, typer.Option("--no-wait", help="Start the job, print it and leave; do not follow it.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
MachineName = Annotated[str, typer.Argument(metavar="MACHINE", help="The machine's name or id.", show_default=False)]


def home() -> Path:
    """FARSHORE_HOME, else /var/lib/farshore: the folder of an installation on this machine."""
    return Path(os.environ.get("FARSHORE_HOME") or DEFAULT_HOME)


def credentials_file() -> Path:
    """FARSHORE_CREDENTIALS, else the administrator's of the installation on this machine."""
    given = os.environ.get("FARSHORE_CREDENTIALS")
    return Path(given) if given else home() / "admin.json"


def management(state: Path | None = None) -> Management:
    """The API, with the caller's credentials, or with the administrator's of the installation in ``state``. Raises
    NotFound, Refused, Malformed."""
    if state is not None:  # whatever variables say
        return Management(Transport.from_credentials(Credentials.load(state / "admin.json")))
    return Management(Transport.from_credentials(Credentials.load(credentials_file()), os.environ.get("FARSHORE_URL")))
