"""Queries over recovery sites."""

from __future__ import annotations

from sqlalchemy import func, select

from farshore.catalog.database import Transaction
from farshore.catalog.tables import FailoverRow, SiteRow
from farshore.model.errors import NotFound, WrongState
from farshore.model.states import PRESENT


def every(tx: Transaction) -> list[SiteRow]:
    """Return all sites, by id."""
    return list(tx.scalars(select(SiteRow).order_by(SiteRow.id)))


def get(tx: Transaction, site: str) -> SiteRow:
    """Return one site. Raises NotFound."""
    row = tx.get(SiteRow, site)
    if row is None:
        raise NotFound(f"There is no recovery site {site!r}.", remedy="See `farshore site list`.")
    return row


def get_usable(tx: Transaction, site: str) -> SiteRow:
    """Return one site. Raises NotFound, WrongState for one that was declared lost."""
    row = get(tx, site)
    if row.lost:
        raise WrongState(
            f"The recovery site {site} was declared lost.",
            remedy=f"Use another site. When it is back: farshore site found {site}",
        )
    return row


def add(tx: Transaction, row: SiteRow) -> None:
    """Add a site. Raises WrongState if the id is taken."""
    if tx.get(SiteRow, row.id) is not None:
        raise WrongState(f"There is a site {row.id!r} already.", remedy="Choose another name.")
    tx.add(row)
    tx.flush()


def remove(tx: Transaction, row: SiteRow) -> None:
    """Delete a site. Raises WrongState while something is, or may be, there."""
    present = failovers_at(tx).get(row.id, 0)
    if present:
        raise WrongState(
            f"{row.id} still has {present} failovers.",
            remedy="List them with `farshore failover list`, and remove them with `farshore failover "
            "cleanup` or `farshore failover delete`.",
        )
    if row.left:
        raise WrongState(
            f"{row.id} was declared lost, and {len(row.left)} machines that were given up there may still run.",
            remedy=f"When it is back, have them removed: farshore site found {row.id}",
        )
    tx.delete(row)


def failovers_at(tx: Transaction) -> dict[str, int]:
    """Return how many failovers are present at each site."""
    states = [state.value for state in PRESENT]
    counted = select(FailoverRow.site, func.count()).where(FailoverRow.state.in_(states)).group_by(FailoverRow.site)
    return {str(site): number for site, number in tx.execute(counted)}
