"""Routes for the log of events and the alerts."""

from __future__ import annotations

from typing import Annotated

from fastapi import Query

from farshore.api_types.events import Alert, Event
from farshore.catalog import events
from farshore.configuration_server.api import views
from farshore.configuration_server.api.parameters import Place, Wanted
from farshore.configuration_server.web.callers import Installation, Reader
from farshore.configuration_server.web.gate import GatedRouter

router = GatedRouter(prefix="/v1", tags=["events"])
Limit = Annotated[int, Query(ge=1, le=10_000)]


@router.get("/events")
def list_events(
    _user: Reader,
    installation: Installation,
    after: Place = 0,
    newest: bool = False,
    subject: Wanted = None,
    kind: Wanted = None,
    actor: Wanted = None,
    limit: Limit = 100,
) -> list[Event]:
    """Return events with an id above ``after``, oldest first; with ``newest`` the last ``limit`` of them. To follow,
    ask again after the last id of the answer. No event is skipped, however many are written at once: an event appears
    when it and those before it are written. ``kind`` and ``actor`` may be prefixes (``actor=user/``: requests of users;
    ``/v1/audit`` keeps those permanently)."""
    with installation.catalog.reading() as tx:
        until = events.settled(tx)
    with installation.catalog.reading() as tx:
        found = events.listed(
            tx, after=after, until=until, newest=newest, subject=subject, kind=kind, actor=actor, limit=limit
        )
        return [views.event(row) for row in found]


@router.get("/alerts")
def list_alerts(_user: Reader, installation: Installation, all: bool = False, limit: Limit = 100) -> list[Alert]:  # noqa: A002
    """Return present problems; with ``all`` also past ones, newest first."""
    with installation.catalog.reading() as tx:
        rows = events.alerts(tx, limit) if all else events.open_alerts(tx)
        return [views.alert(row) for row in rows]
