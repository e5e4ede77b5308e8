"""``farshore site``: recovery sites."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from pydantic import SecretStr

from farshore.api_types.jobs import Job
from farshore.api_types.sites import Setting, Site, SiteCheck, SiteRequest
from farshore.api_types.targets import TargetSeverity
from farshore.api_types.users import Role
from farshore.cli.asking import ask
from farshore.cli.connection import AsJson, Yes, completion, management
from farshore.cli.following import finish
from farshore.cli.output import moment, out, print_done, print_fields, print_json, print_table, size
from farshore.cli.secret_files import read_secret
from farshore.client.transport import segment
from farshore.model.errors import Malformed

app = typer.Typer(no_args_is_help=True, help="Recovery sites: list, add, check, declare lost, remove.")

SiteName = Annotated[
    str,
    typer.Argument(
        metavar="SITE", help="The site's name.", show_default=False, autocompletion=completion("/v1/sites", "id")
    ),
]


@app.command()
def add(
    site: SiteName,
    kind: Annotated[str, typer.Option(help="Kind of site: qemu, libvirt, vsphere or azure.")] = "qemu",
    setting: Annotated[
        list[str] | None, typer.Option(help="NAME=VALUE. Repeatable. An unknown name lists the valid ones.")
    ] = None,
    secret_file: Annotated[
        Path | None, typer.Option(help="File with the provider's secret; - for standard input.", show_default=False)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Add a recovery site. You can add several of one kind.

    Example: `farshore site add lab --kind qemu --setting accelerator=tcg`
    """
    secret = SecretStr(read_secret(secret_file).strip() if secret_file is not None else "")
    request = SiteRequest(id=site, kind=kind, settings=parse_settings(setting or []), secret=secret)
    made = management().transport.post("/v1/sites", request, Site)
    told = f"Site {made.id} was added. Check it: farshore site check {made.id}"
    print_done(told, as_json, added=made.id)


@app.command("list")
def list_sites(as_json: AsJson = False) -> None:
    """List recovery sites."""
    found = management().transport.get_list("/v1/sites", Site)
    if as_json:
        print_json(found)
        return
    rows = [[one.id, _kind(one), _settings(one), str(one.failovers), moment(one.created)] for one in found]
    print_table(("Site", "Kind", "Settings", "Failovers", "Added"), rows, "There are no recovery sites.")


@app.command()
def show(site: SiteName, as_json: AsJson = False) -> None:
    """Show a recovery site."""
    found = management().transport.get(f"/v1/sites/{segment(site)}", Site)
    if as_json:
        print_json(found)
        return
    print_fields(
        [
            ("Site", found.id),
            ("Kind", found.kind),
            ("Settings", _settings(found)),
            ("Secret", "stored encrypted" if found.has_secret else ""),
            ("Failovers", str(found.failovers)),
            ("Added", moment(found.created) if found.created else "with the installation"),
            ("Lost", moment(found.lost) if found.lost else ""),
        ]
    )


@app.command()
def check(
    site: SiteName,
    machine: Annotated[
        str | None, typer.Option(help="Check for this machine, whatever the site of its target.", show_default=False)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check a site, and whether all protected machines that target it could come up there at the same time.

    Changes nothing. Exits with status 1 if there is an obstacle.

    Example: `farshore site check lab --machine db1`
    """
    asked = "" if machine is None else f"?machine={segment(machine)}"
    found = management().transport.post(f"/v1/sites/{segment(site)}/check{asked}", None, SiteCheck)
    if as_json:
        print_json(found)
    else:
        print_fields([*found.found.items(), *_room(found)])
        out.print()
        rows = [[one.severity.value, one.subject, one.message, one.remedy] for one in found.obstacles]
        count = found.demand.machines
        clear = f"{count} machines could come up there now." if count != 1 else "One machine could come up there now."
        print_table(
            ("Severity", "What", "Obstacle", "Remedy"), rows, clear if count else "No machine targets this site."
        )
    if any(one.severity is TargetSeverity.ERROR for one in found.obstacles):
        raise typer.Exit(1)


def _room(found: SiteCheck) -> list[tuple[str, str]]:
    """Return the resources that machines would need, and what the site has."""
    has, wanted = found.capacity, found.demand
    free = f", {size(has.memory_free)} of them free" if has.memory_free is not None else ""
    return [
        ("machines", str(wanted.machines)),
        ("processors needed", _of(str(wanted.processors), None if has.processors is None else str(has.processors))),
        ("memory needed", _of(size(wanted.memory), None if has.memory is None else f"{size(has.memory)}{free}")),
        (
            "disks at full size",
            _of(size(wanted.disk), None if has.disk_free is None else f"{size(has.disk_free)} free"),
        ),
        ("addresses", "" if has.addresses is None else str(has.addresses)),
    ]


def _of(wanted: str, there: str | None) -> str:
    return f"{wanted}; limit not known" if there is None else f"{wanted} of {there}"


@app.command()
def lost(site: SiteName, yes: Yes = False, as_json: AsJson = False) -> None:
    """Declare that a recovery site is gone, so that its machines can be brought up elsewhere.

    Only you can know it: a site that does not answer may still run its machines, and a machine must never run twice.
    """
    api = management()
    question = f"Have you made sure that no machine runs at {site} and none will start there by itself?"
    ask(api, Role.CONTRIBUTOR, question, yes=yes)
    api.transport.post(f"/v1/sites/{segment(site)}/lost", None, Site)
    print_done(f"Site {site} counts as lost. When it is back: farshore site found {site}", as_json, lost=site)


@app.command()
def found(site: SiteName, as_json: AsJson = False) -> None:
    """Use a site again that was declared lost. What was given up there is removed first."""
    api = management()
    job = api.transport.post(f"/v1/sites/{segment(site)}/found", None, Job)
    finish(api, job, as_json=as_json)


@app.command()
def remove(site: SiteName, yes: Yes = False, as_json: AsJson = False) -> None:
    """Delete a recovery site that has no failovers."""
    api = management()
    ask(api, Role.CONTRIBUTOR, f"Delete site {site}?", yes=yes)
    api.transport.delete(f"/v1/sites/{segment(site)}")
    print_done(f"Site {site} was deleted.", as_json, removed=site)


def parse_settings(pairs: list[str]) -> dict[str, Setting]:
    """Parse NAME=VALUE pairs. true, false and whole numbers become booleans and integers. Raises Malformed."""
    settings: dict[str, Setting] = {}
    for pair in pairs:
        name, found, value = pair.partition("=")
        if not name or not found:
            raise Malformed(f"{pair!r} is not a setting.", remedy="Write it as NAME=VALUE.")
        whole = value.removeprefix("-").isdecimal()
        settings[name] = value == "true" if value in ("true", "false") else int(value) if whole else value
    return settings


def _kind(site: Site) -> str:
    return f"{site.kind} (lost)" if site.lost else site.kind


def _settings(site: Site) -> str:
    return ", ".join(f"{name}={value}" for name, value in site.settings.items())
