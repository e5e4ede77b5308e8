"""``farshore event``: the event log and the open alerts."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Annotated

import typer

from farshore.api_types.events import Alert, Event
from farshore.cli.connection import AsJson, management
from farshore.cli.output import ago, as_json_value, moment, out, print_json, print_table
from farshore.client.management import Management
from farshore.model.errors import TryLater

PAGE, MOST = 1000, 10_000
POLL_SECONDS = 1.0
app = typer.Typer(no_args_is_help=True, help="The event log and the open alerts.")


@app.command("list")
def list_events(
    subject: Annotated[
        str | None, typer.Option(help="Only events about this: machine/ID, policy/NAME, user/NAME …")
    ] = None,
    kind: Annotated[str | None, typer.Option(help="Only kinds with this prefix: machine, failover, alert …")] = None,
    audit: Annotated[
        bool, typer.Option("--audit", help="Only actions of users. For the full log: `farshore audit list`.")
    ] = False,
    limit: Annotated[int, typer.Option(min=1, max=MOST, help="Show at most N events, newest last.")] = 50,
    after: Annotated[
        int | None, typer.Option(min=0, help="List all events after the one with this id, instead of the newest.")
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", help="Keep printing new events until Ctrl-C.")] = False,
    as_json: AsJson = False,
) -> None:
    """List events, newest last.

    With `--follow` each event is printed as one line, with `--json` as one JSON line. `--after` continues from an
    earlier list.

    Example: `farshore event list --audit --kind failover`
    """
    log = Log(management(), subject=subject, kind=kind, actor="user/" if audit else None)
    if follow:
        for event in log.followed(after, limit):
            typer.echo(json.dumps(as_json_value(event))) if as_json else out.print("  ".join(_row(event)))
        return
    found = log.newest(limit) if after is None else list(log.since(after))
    if as_json:
        print_json(found)
        return
    print_table(("Time", "Severity", "By", "What"), [_row(event) for event in found], "There are no events yet.")


class Log:
    """The server's event log, filtered."""

    def __init__(self, api: Management, **wanted: str | None) -> None:
        self._api = api
        self._wanted = wanted

    def newest(self, limit: int) -> list[Event]:
        """Return the newest events, oldest first."""
        return self._page(newest=True, limit=limit)

    def since(self, after: int) -> Iterator[Event]:
        """Yield all events after an id, oldest first."""
        while page := self._page(after=after, limit=PAGE):
            yield from page
            after = page[-1].id

    def followed(self, after: int | None, limit: int) -> Iterator[Event]:
        """Yield the newest events, or all after an id, then each new one. Waits for a server that restarts."""
        if after is None:
            shown = self.newest(limit)
            yield from shown
            after = shown[-1].id if shown else 0
        while True:
            try:
                for event in self.since(after):
                    yield event
                    after = event.id
            except TryLater:
                pass
            time.sleep(POLL_SECONDS)

    def _page(self, **which: int) -> list[Event]:
        return self._api.transport.get_list("/v1/events", Event, **which, **self._wanted)


def _row(event: Event) -> list[str]:
    return [moment(event.time), event.severity.value, event.actor, event.message]


@app.command("alerts")
def list_alerts(
    all_alerts: Annotated[bool, typer.Option("--all", help="Include alerts that are over.")] = False,
    as_json: AsJson = False,
) -> None:
    """List open alerts, each with its remedy."""
    found = management().transport.get_list("/v1/alerts", Alert, all=all_alerts)
    if as_json:
        print_json(found)
        return
    rows = [
        [alert.severity.value, ago(alert.raised), "over" if alert.cleared else "open", alert.message, alert.remedy]
        for alert in found
    ]
    print_table(("Severity", "Raised", "State", "What", "Remedy"), rows, "All is well.")
