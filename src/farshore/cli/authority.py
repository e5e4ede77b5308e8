"""``farshore authority``: the authority that everybody's certificates come from, and its replacement."""

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
    Phase.INTRODUCED: "Next: `farshore authority replace` lets the new authority sign, once nobody is waited for.",
    Phase.SWITCHED: "Next: `farshore authority replace` ends the trust in the old one, once nobody is waited for.",
}


@app.command()
def show(as_json: AsJson = False) -> None:
    """Show which authorities are trusted, where a replacement stands and who has not followed yet."""
    _print(management().transport.get(_PATH, Replacement), as_json)


@app.command()
def replace(
    leave_behind: Annotated[
        bool, typer.Option("--leave-behind", help="Do not wait for anybody: who has not followed must enrol again.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Do the next of three steps that replace the authority's key while everything runs.

    First a new authority is made, and everybody is given its certificate. Then it signs. Then the old one is trusted no
    longer. Machines and process servers follow within the hour; users by `farshore user renew`.
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
            ("Trusted too", ", ".join(found.trusted[1:]) or "none"),
            ("Waiting for", ", ".join(found.waiting) or "nobody"),
        ]
    )
    if _NEXT[found.phase]:
        out.print(_NEXT[found.phase])
