"""The connection of commands to the server, and the options that many commands share."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated
from urllib.parse import quote

import typer

from farshore.client.credentials import Credentials
from farshore.client.management import Management
from farshore.client.transport import Transport

DEFAULT_HOME = "/var/lib/farshore"

_MOST_OFFERED = 200


def completion(path: str, field: str = "name", *, by_prefix: bool = False) -> Callable[[str], list[str]]:
    """Return a shell completion of the names in a list of the API. With ``by_prefix`` the server filters the list,
    which may be long. On any error it offers nothing and prints nothing, as the user is in the middle of a line."""

    def complete(incomplete: str) -> list[str]:
        # Not only our errors: a traceback at the prompt is worse than no completion, whatever its cause.
        with contextlib.suppress(Exception):
            asked = f"{path}?limit={_MOST_OFFERED}&prefix={quote(incomplete, safe='')}" if by_prefix else path
            rows = json.loads(management().transport.request("GET", asked))
            names = sorted({str(row[field]) for row in rows})
            return [name for name in names if name.startswith(incomplete)][:_MOST_OFFERED]
        return []

    return complete


MACHINES = completion("/v1/machine-summaries", by_prefix=True)
"""Completes machine names."""

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]
NoWait = Annotated[bool, typer.Option("--no-wait", help="Start the job, print it and exit without waiting.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not prompt for confirmation.")]
MachineName = Annotated[
    str,
    typer.Argument(
        metavar="MACHINE",
        help="The machine's name or id.",
        show_default=False,
        autocompletion=MACHINES,
    ),
]


def home() -> Path:
    """Return the folder of the installation on this machine: FARSHORE_HOME, else /var/lib/farshore."""
    return Path(os.environ.get("FARSHORE_HOME") or DEFAULT_HOME)


def credentials_file() -> Path:
    """Return the credentials file: FARSHORE_CREDENTIALS, else the administrator's of this machine's installation."""
    given = os.environ.get("FARSHORE_CREDENTIALS")
    return Path(given) if given else home() / "admin.json"


def management(state: Path | None = None) -> Management:
    """Return the API, with the caller's credentials or the administrator's of this machine's installation. Raises
    NotFound, Refused, Malformed."""
    if state is not None:  # overrides the environment variables
        return Management(Transport.from_credentials(Credentials.load(state / "admin.json")))
    return Management(Transport.from_credentials(Credentials.load(credentials_file()), os.environ.get("FARSHORE_URL")))
