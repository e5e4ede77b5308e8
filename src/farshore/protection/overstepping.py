"""Handle a process server that reports about machines that it does not serve: an event, and an alert that the watch
raises."""

from __future__ import annotations

from farshore.api_types.events import Severity
from farshore.catalog import events
from farshore.catalog.database import Transaction
from farshore.catalog.tables import ProcessServerRow
from farshore.protection.watch import OVERSTEPPED_FOR


def note_foreign(tx: Transaction, server: ProcessServerRow, foreign: set[str], now: int, did: str) -> None:
    """Record that a process server ``did`` something to the machines ``foreign``, which it does not serve. Limited in
    rate."""
    names = ", ".join(sorted(foreign)[:5]) + (" …" if len(foreign) > 5 else "")
    if names != server.overstepped_with or now - server.overstepped > OVERSTEPPED_FOR:
        events.record_some(
            tx,
            time=now,
            kind="process-server.overstepped",
            actor=f"process-server/{server.id}",
            subject=f"process-server/{server.id}",
            severity=Severity.ERROR,
            message=f"Process server {server.name} {did} machines that it does not serve: {names}.",
        )
        server.overstepped = now
    server.overstepped_with = names
