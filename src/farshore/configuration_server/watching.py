"""The watch's round: brings the open alerts in line with what is wrong now."""

from __future__ import annotations

from farshore.catalog import events, machines, policies, process_servers
from farshore.catalog.database import Catalog
from farshore.model.ports import Clock
from farshore.protection.watch import conditions, reconcile


def look(catalog: Catalog, clock: Clock) -> None:
    """Compare what is wrong with the open alerts; write only where they differ."""
    now = clock.now()
    with catalog.reading() as tx:
        present = conditions(machines.every(tx), policies.every(tx), process_servers.every(tx), now)
        known = {(alert.kind, alert.subject) for alert in events.open_alerts(tx)}
    if known != {(condition.kind, condition.subject) for condition in present}:
        with catalog.writing() as tx:
            reconcile(tx, present, now)
