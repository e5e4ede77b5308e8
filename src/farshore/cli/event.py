"""``farshore event``: what happened, who asked for it, what is wrong now."""

from __future__ import annotations

from typing import Annotated

import typer

from farshore.api_types.events import Alert, Event
from farshore.cli.connection import AsJson, management
from farshore.cli.output import ago, moment, print_json, print_table

app = typer.Typer(no_args_is_help=True, help="The log of events, and the alerts.")


@app.command("list")
def list_events(
    subject: Annotated[str | None, typer.Option(help="Only about this: machine/ID, policy/NAME, user/NAME …")] = None,
    kind: Annotated[str | None, typer.Option(help="Only kinds that begin so: machine, failover, alert …")] = None,
    audit: Annotated[
        bool, typer.Option("--audit", help="Only what users asked for; `farshore audit list` has all of it.")
    ] = False,
    limit: Annotated[int, typer.Option(min=1, help="The newest so many.")] = 50,
    as_json: AsJson = False,
) -> None:
    """List events, the newest last.

    Example: `farshore event list --audit --kind failover`
    """
    found = management().transport.get_list(
        "/v1/events", Event, subject=subject, kind=kind, actor="user/" if audit else None, limit=limit
    )
    if as_json:
        print_json(found)
        return
    rows = [[moment(event.time), event.severity.value, event.actor, event.message] for event in reversed(found)]
    print_table(("Time", "Severity", "By", "What"), rows, "Nothing has happened yet.")


@app.command("alerts")
def list_alerts(
    all_alerts: Annotated[bool, typer.Option("--all", help="Also what is over.")] = False, as_json: AsJson = False
) -> None:
    """List what is wrong now, each with its remedy."""
    found = management().transport.get_list("/v1/alerts", Alert, all=all_alerts)
    if as_json:
        print_json(found)
        return
    rows = [
        [alert.severity.value, ago(alert.raised), "over" if alert.cleared else "open", alert.message, alert.remedy]
        for alert in found
    ]
    print_table(("Severity", "Raised", "State", "What", "Remedy"), rows, "All is well.")
