"""Stops what an earlier failover of the machine brought up: two of one machine must never run side by side.

Its overlay stays until the commit: changing the point again may want to come back to what it holds.
"""

from __future__ import annotations

from farshore.recovery.context import RecoveryContext, failover_id
from farshore.recovery.standing import Standing, others, rows, tell

_GRACE_SECONDS = 20.0


def retire_earlier(context: RecoveryContext, failover: str) -> list[str]:
    """The failovers that were stopped."""
    with context.catalog.reading() as tx:
        row, _ = rows(tx, failover)
        running = [(other.id, other.site) for other in others(tx, row) if other.state == Standing.RUNNING.value]
    for earlier, kind in running:
        site = context.site(kind)
        site.stop(failover_id(earlier), grace=_GRACE_SECONDS)
        site.destroy(failover_id(earlier))
        context.exports.stop(context.files(earlier).folder)
        with context.catalog.writing() as tx:
            row, machine = rows(tx, earlier)
            row.state = Standing.SUPERSEDED.value
            tell(context, tx, row, "failover.superseded", f"{machine.name} is brought up from another point instead.")
    return [earlier for earlier, _ in running]
