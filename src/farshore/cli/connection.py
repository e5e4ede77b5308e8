"""How commands reach the server, and the options that many of them share."""

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
    """A completion of the names in a list of the API, for the shell's prompt; ``by_prefix``: of a list that may be
    long, the server answers what begins so. Whatever is in the way, nothing is offered and nothing said: the shell is
    in the middle of a line."""

    def complete(incomplete: str) -> list[str]:
        # Not our errors alone: a traceback at the prompt is worse than no completion, whatever it is about.
        with contextlib.suppress(Exception):
            asked = f"{path}?limit={_MOST_OFFERED}&prefix={quote(incomplete, safe='')}" if by_prefix else path
            rows = json.loads(management().transport.request("GET", asked))
            names = sorted({str(row[field]) for row in rows})
            return [name for name in names if name.startswith(incomplete)][:_MOST_OFFERED]
        return []

    return complete


MACHINES = completion("/v1/machine-summaries", by_prefix=True)
"""Completes the names of machines."""

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table, for scripts.")]
NoWait = Annotated[bool, typer.Option("--no-wait", help="Start the job, print it and leave; do not follow it.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
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
