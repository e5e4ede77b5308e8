"""Queries over alert channels, and over the messages sent on each."""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy import or_, select

from farshore.catalog.database import Transaction
from farshore.catalog.tables import AlertChannelRow, AlertNoticeRow, AlertRow
from farshore.model.errors import NotFound, WrongState


def every(tx: Transaction) -> list[AlertChannelRow]:
    """Return all channels, by name."""
    return list(tx.scalars(select(AlertChannelRow).order_by(AlertChannelRow.name)))


def get(tx: Transaction, name: str) -> AlertChannelRow:
    """Return one channel. Raises NotFound."""
    row = tx.get(AlertChannelRow, name)
    if row is None:
        raise NotFound(f"There is no alert channel {name!r}.", remedy="See `farshore alert channels`.")
    return row


def add(tx: Transaction, row: AlertChannelRow) -> None:
    """Add a channel. Raises WrongState if the name is taken."""
    if tx.get(AlertChannelRow, row.name) is not None:
        raise WrongState(
            f"There is an alert channel {row.name!r} already.",
            remedy="Choose another name, or remove that channel first.",
        )
    tx.add(row)
    tx.flush()


def remove(tx: Transaction, name: str) -> None:
    """Delete a channel, and the record of its messages. Raises NotFound."""
    tx.delete(get(tx, name))


def told(tx: Transaction, channel: str) -> dict[int, AlertNoticeRow]:
    """Return, by alert, what a channel has sent about alerts whose end it has not sent."""
    wanted = select(AlertNoticeRow).where(AlertNoticeRow.channel == channel, AlertNoticeRow.over == 0)
    return {row.alert: row for row in tx.scalars(wanted)}


def concerning(tx: Transaction, alerts: Collection[int]) -> list[AlertRow]:
    """Return the open alerts, and those with the given ids, oldest first."""
    wanted = select(AlertRow).where(or_(AlertRow.cleared == 0, AlertRow.id.in_(alerts)))
    return list(tx.scalars(wanted.order_by(AlertRow.id)))


def note(tx: Transaction, channel: str, alert: int, now: int, *, over: bool) -> None:
    """Record that a channel has sent an alert, or the message that it is over."""
    row = tx.get(AlertNoticeRow, (channel, alert))
    if row is None:
        row = AlertNoticeRow(channel=channel, alert=alert)
        tx.add(row)
    row.sent = now
    row.over = now if over else 0


def acknowledge(tx: Transaction, alerts: Collection[int], user: str, now: int) -> list[AlertRow]:
    """Record that a user has seen these alerts; return the rows that were not acknowledged before. Raises NotFound for
    one that is not open."""
    found = []
    for alert in alerts:
        row = tx.get(AlertRow, alert)
        if row is None or row.cleared:
            raise NotFound(f"No alert {alert} is open.", remedy="See `farshore alert list`.")
        if not row.acknowledged:
            row.acknowledged, row.acknowledged_by = now, user
            found.append(row)
    return found
