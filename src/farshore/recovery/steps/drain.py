"""Wait until the vault holds everything that the process server had received, so that "latest" is the newest data.

A request for the latest *processed* state does not wait: the data in the vault is used.
"""

from __future__ import annotations

from farshore.catalog import epochs, process_servers
from farshore.model.errors import NotFound
from farshore.recovery.context import RecoveryContext
from farshore.recovery.standing import asked, refuse_if_cancelled, rows

_SECOND = 1_000_000_000
_FORGETTING = 2 * _SECOND
"""If a process server reports without the stream this long after the fence, it has nothing left of it."""


def drain(context: RecoveryContext, failover: str, fenced: int) -> str:
    """Return what remains unstored, as a message; empty if everything was stored. Raises only Cancelled: the data in
    the vault can be recovered anyway."""
    end = context.clock.monotonic() + context.patience.drain
    with context.catalog.reading() as tx:
        point = asked(rows(tx, failover)[0]).point
    if point.latest_processed:
        return ""
    while True:
        refuse_if_cancelled(context, failover)
        with context.catalog.reading() as tx:
            row, _ = rows(tx, failover)
            newest = epochs.newest(tx, row.machine)
            if newest is None or not newest.consistent or epochs.is_drained(newest, fenced):
                return ""
            try:
                server = process_servers.get(tx, newest.process_server)
            except NotFound:
                return "The process server of the machine is no longer known."
            if newest.stored >= newest.received and server.last_seen > fenced + _FORGETTING:
                return ""
            silent = (context.clock.now() - server.last_seen) / _SECOND
            behind = newest.received - newest.stored
        if silent > context.patience.silent_server:
            return f"The process server has been silent for {silent:.0f} s; {behind} records or more are in its spool."
        if context.clock.monotonic() > end:
            waited = f"After {context.patience.drain:.0f} s the process server"
            if behind <= 0:
                return f"{waited} had not confirmed that all it received is stored."
            return f"{waited} still had {behind} records to store."
        context.sleep(context.patience.poll)
