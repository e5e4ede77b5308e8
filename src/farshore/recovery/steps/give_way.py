"""Stop the instance of a machine that runs at a recovery site before another one is brought up, from another point or
at another place: two of one machine must never run side by side.

It is stopped first, and removed only once the other has answered; if that fails, it is started again. Its disks are
kept until the commit: a later change of the point may need them.
"""

from __future__ import annotations

from farshore.catalog import failovers
from farshore.model.states import UP, FailoverState
from farshore.recovery.context import RecoveryContext, failover_id
from farshore.recovery.standing import note_stopping, replaced, rows, site_of, tell
from farshore.recovery.steps.process_server import dismiss_server
from farshore.recovery.steps.start import position_of, start_if_wanted
from farshore.sites.lost import LostSite

_GRACE_SECONDS = 20.0


def stop_earlier(context: RecoveryContext, failover: str, grace: float = _GRACE_SECONDS) -> list[str]:
    """Return the failovers that were stopped; ``grace``: seconds in which a machine may shut down by itself."""
    with context.catalog.writing() as tx:
        note_stopping(rows(tx, failover)[0], context.clock.now())
    earlier = list(_replaced(context, failover))
    for one in earlier:
        with context.catalog.writing() as tx:
            row, machine = rows(tx, one)
            site = context.site(row.site)
            if FailoverState(row.state) in UP:
                failovers.set_state(row, FailoverState.SUPERSEDED)
                tell(context, tx, row, "failover.superseded", f"{machine.name} will be brought up again instead.")
        site.stop(failover_id(one), grace=grace)
    return earlier


def start_earlier(context: RecoveryContext, failover: str) -> list[str]:
    """Return the failovers that run again, because their replacement could not be brought up."""
    earlier = _replaced(context, failover)
    for one, before in earlier.items():
        with context.catalog.writing() as tx:
            row, machine = rows(tx, one)
            position, site = position_of(row), context.site(row.site)
            if row.state == FailoverState.SUPERSEDED.value:
                failovers.set_state(row, before)
                if not isinstance(site, LostSite):
                    tell(context, tx, row, "failover.running", f"{machine.name} runs from its earlier point again.")
        if isinstance(site, LostSite):
            continue
        start_if_wanted(context, site, one, position)
    return list(earlier)


def remove_earlier(context: RecoveryContext, failover: str) -> list[str]:
    """Return the failovers of which only the disks remain."""
    earlier = list(_replaced(context, failover))
    for one in earlier:
        site = site_of(context, one)
        dismiss_server(context, one, site)
        site.destroy(failover_id(one))
        context.delivery(site).rest(context.files(one).folder)
    return earlier


def _replaced(context: RecoveryContext, failover: str) -> dict[str, FailoverState]:
    with context.catalog.reading() as tx:
        return replaced(rows(tx, failover)[0])
