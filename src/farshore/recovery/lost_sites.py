"""A recovery site that is lost, and one that is back: the word of an operator, and what it takes back.

Nobody can ask a site that is gone whether a machine still runs there, and a machine must never run twice. So bringing
it up elsewhere waits for the site, until an operator declares the site lost. Once it is back, what counts as stopped
there is stopped, and what was given up is removed, before anything else happens at it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from functools import partial

from dbos import DBOS

from farshore.api_types.events import Severity
from farshore.catalog import events, failovers, sites
from farshore.catalog.database import Catalog, Transaction
from farshore.catalog.tables import SiteRow
from farshore.durable.jobs import JobDefinition, Request, Result
from farshore.durable.steps import USUAL, run_step
from farshore.model.errors import TryLater, WrongState
from farshore.recovery.context import RecoveryContext, failover_id
from farshore.recovery.steps.remove import remove_at
from farshore.sites.lost import LostSite
from farshore.sites.port import Examined, FailoverId, RecoverySite

SITE_FOUND = "site-found"
REMOVE = "remove what was left there"
_GRACE_SECONDS = 20.0


def opened(catalog: Catalog, site: str, open_row: Callable[[SiteRow], RecoverySite]) -> RecoverySite:
    """Open a site, or a LostSite in its place. Raises NotFound, and as ``open_row``, which asks nobody."""
    with catalog.reading() as tx:
        row = sites.get(tx, site)
    if not row.lost:
        return open_row(row)
    return LostSite(row.id, open_row(row).delivery, partial(_note_left, catalog, row.id), partial(open_row, row))


def _note_left(catalog: Catalog, site: str, failover: FailoverId) -> None:
    with catalog.writing() as tx:
        row = sites.get(tx, site)
        if not row.lost:
            raise TryLater(f"The recovery site {site} is back.", remedy="Repeat the command.")
        if failover not in row.left:
            row.left = [*row.left, failover]


def declare_lost(tx: Transaction, site: str, *, now: int, actor: str) -> None:
    """Write down that nothing runs at the site, by the word of ``actor``. Raises NotFound."""
    row = sites.get(tx, site)
    if row.lost:
        return
    row.lost = now
    events.record(
        tx,
        time=now,
        kind="site.lost",
        actor=actor,
        subject=f"site/{site}",
        message=f"Recovery site {site} was declared lost: none of its machines runs.",
        severity=Severity.WARNING,
    )


def check_lost(tx: Transaction, site: str) -> None:
    """Raise WrongState for a site that was not declared lost, NotFound."""
    if not sites.get(tx, site).lost:
        raise WrongState(f"The recovery site {site} is not declared lost.", remedy=f"farshore site check {site}")


def site_found_job(context: RecoveryContext) -> JobDefinition:
    """The job that takes a site back. Its request: ``site``, and the ``actor`` who asked."""

    @DBOS.workflow(name=SITE_FOUND)
    def find(request: Request) -> Result:
        site = str(request["site"])
        return {"site": site, "removed": run_step(REMOVE, USUAL, take_back, context, site, str(request["actor"]))}

    return JobDefinition(SITE_FOUND, find, (REMOVE,))


def take_back(context: RecoveryContext, site: str, actor: str) -> list[str]:
    """Stop what counts as stopped at a lost site, remove what counts as removed, then use the site again. Return the
    removed failovers. Raises as the site does: then it stays lost."""
    removed: list[str] = []
    stopped: set[str] = set()
    while isinstance(lost := context.site(site), LostSite):
        itself = lost.itself()
        # One that does not answer is not back, even if nothing was left there.
        itself.examine() if isinstance(itself, Examined) else itself.present()
        with context.catalog.reading() as tx:
            left = [one for one in sites.get(tx, site).left if one not in removed]
            off = failovers.kept_off(tx, site) - stopped - {*left, *removed}
        for failover in sorted(off):
            itself.stop(failover_id(failover), grace=_GRACE_SECONDS)
        stopped |= off
        for failover in left:
            remove_at(context, failover, itself)
        removed += left
        _note_found(context, site, actor, removed, stopped)
    return removed


def _note_found(
    context: RecoveryContext, site: str, actor: str, removed: Sequence[str], stopped: Collection[str]
) -> None:
    with context.catalog.writing() as tx:
        row = sites.get(tx, site)
        if set(row.left) - set(removed) or failovers.kept_off(tx, site) - {*stopped, *removed}:
            return  # a job gave up, or replaces, another one meanwhile
        row.lost, row.left = 0, []
        events.record(
            tx,
            time=context.clock.now(),
            kind="site.found",
            actor=actor,
            subject=f"site/{site}",
            message=f"Recovery site {site} is back. Removed there: {len(removed)} failovers.",
        )
