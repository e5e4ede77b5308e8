"""The route of figures for a monitoring system."""

from __future__ import annotations

from fastapi.responses import Response

from farshore.catalog import events, machines, master_targets, process_servers
from farshore.configuration_server.api import views
from farshore.configuration_server.metrics import OwnRequests, exposition
from farshore.configuration_server.web.callers import Installation, Reader
from farshore.configuration_server.web.gate import GatedRouter

router = GatedRouter(prefix="/v1", tags=["events"])
TEXT = "text/plain; version=0.0.4; charset=utf-8"


@router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
def metrics(_user: Reader, installation: Installation) -> Response:
    """Return the state of every machine, process server and master target in Prometheus' text format. Scrape it with a
    reader's certificate."""
    now = installation.clock.now()
    asked, seconds = installation.vault.requests()
    with installation.catalog.reading() as tx:
        servers = process_servers.every(tx)
        counts, errands = machines.count_by_server(tx), master_targets.counts(tx)
        text = exposition(
            [views.machine(row, now, servers) for row in machines.every(tx)],
            [views.process_server(row, counts.get(row.id, 0), now) for row in servers],
            events.count_open_alerts(tx),
            OwnRequests(asked, views.a_day(asked, seconds)),
            [views.master_target(row, errands.get(row.id, 0), now) for row in master_targets.every(tx)],
        )
    return Response(text, media_type=TEXT)
