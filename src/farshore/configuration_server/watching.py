"""The watch's round: brings the open alerts in line with what is wrong now, and machines to servers that are well."""

from __future__ import annotations

from farshore.catalog import epochs, events, machines, policies, process_servers
from farshore.catalog.database import Catalog
from farshore.model.ports import Clock
from farshore.protection import moving
from farshore.protection.silence import Silence
from farshore.protection.watch import conditions, reconcile

DAY = 86400 * 1_000_000_000


def look(catalog: Catalog, clock: Clock, silence: Silence) -> None:
    """Compare what is with what should be; write only where they differ."""
    now = clock.now()
    with catalog.reading() as tx:
        every, servers = machines.every(tx), process_servers.every(tx)
        present = conditions(every, policies.every(tx), servers, now)
        known = {(alert.kind, alert.subject) for alert in events.open_alerts(tx)}
        moves = moving.decide(every, servers, epochs.streaming(tx), silence.given_up(servers), now)
    if known != {(condition.kind, condition.subject) for condition in present}:
        with catalog.writing() as tx:
            reconcile(tx, present, now)
    for move in moves:
        with catalog.writing() as tx:
            moving.carry_out(tx, move, now)


def prune(catalog: Catalog, clock: Clock, days: int, most: int) -> None:
    """Forget events older than ``days``, and the oldest beyond the newest ``most``; alerts that are over with them."""
    with catalog.writing() as tx:
        events.prune(tx, clock.now() - days * DAY, most)
