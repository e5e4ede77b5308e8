"""``farshore authority``: the certificate authority of the installation, and its replacement."""

from __future__ import annotations

from typing import Annotated

import typer

from farshore.api_types.authority import Phase, Replacement, ReplacementRequest
from farshore.cli.connection import AsJson, management
from farshore.cli.output import out, print_fields, print_json

app = typer.Typer(no_args_is_help=True, help="The certificate authority of the installation.")
_PATH = "/v1/authority/replacement"
_NEXT = {
    Phase.SETTLED: "",
    Phase.INTRODUCED: "Next: `farshore authority replace` lets the new authority sign, once nobody is listed as "
    "waiting.",
    Phase.SWITCHED: "Next: `farshore authority replace` ends the trust in the old authority, once nobody is listed "
    "as waiting.",
}


@app.command()
def show(as_json: AsJson = False) -> None:
    """Show the trusted authorities, the progress of a replacement, and who has not switched yet."""
    _print(management().transport.get(_PATH, Replacement), as_json)


@app.command()
def replace(
    leave_behind: Annotated[
        bool, typer.Option("--leave-behind", help="Do not wait. Whoever has not switched must enrol again.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Replace the authority's key without downtime. Each call does the next of three steps.

    Step 1 makes a new authority and distributes its certificate. Step 2 lets it sign. Step 3 ends the trust in the old
    one. Machines and process servers switch by themselves within an hour; users with `farshore user renew`.
    """
    api = management().transport
    present = api.get(_PATH, Replacement)
    request = ReplacementRequest(phase=present.phase, leave_behind=leave_behind)
    _print(api.post(_PATH, request, Replacement), as_json)


def _print(found: Replacement, as_json: bool) -> None:
    if as_json:
        print_json(found)
        return
    print_fields(
        [
            ("State", found.phase.value),
            ("Signs", found.trusted[0]),
            ("Also trusted", ", ".join(found.trusted[1:]) or "none"),
            ("Waiting for", ", ".join(found.waiting) or "nobody"),
        ]
    )
    if _NEXT[found.phase]:
        out.print(_NEXT[found.phase])
