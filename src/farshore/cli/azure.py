"""``farshore azure``: checks what a recovery site at Azure needs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from farshore.api_types.sites import SiteFinding, SiteInspection
from farshore.cli.connection import AsJson, management
from farshore.cli.output import out, print_json, print_table
from farshore.cli.site import SiteName
from farshore.client.transport import segment

app = typer.Typer(no_args_is_help=True, help="Azure: check what a recovery site needs.")

Bicep = Annotated[
    Path | None, typer.Option(help="Write a Bicep file to this path that creates what is needed.", show_default=False)
]


@app.command()
def check(site: SiteName, bicep: Bicep = None, as_json: AsJson = False) -> None:
    """Check each thing that a site of kind azure needs: identity, subscription, rights, region, sizes, quota, networks,
    the vault's storage account and the path to it. For each missing thing, print how to create it.

    It changes nothing. Exits with status 1 if something is missing.

    Example: `farshore azure check cloud --bicep farshore.bicep`"""
    found = management().transport.post(f"/v1/sites/{segment(site)}/inspection", None, SiteInspection)
    if bicep is not None:
        bicep.write_text(found.template)
    if as_json:
        print_json(found)
    else:
        rows = [[_mark(one), one.subject, one.found] for one in found.findings]
        print_table(("", "What", "Found"), rows, "Nothing was checked.")
        for one in found.findings:
            if one.remedy:
                out.print(f"\n{one.subject}: {one.remedy}", soft_wrap=True, markup=False, highlight=False)
        if bicep is not None:
            out.print(
                f"\n{bicep} creates what is needed; its first lines say how to deploy it.", soft_wrap=True, markup=False
            )
    if any(one.missing for one in found.findings):
        raise typer.Exit(1)


def _mark(one: SiteFinding) -> str:
    return "missing" if one.missing else "mind" if one.remedy else "good"
