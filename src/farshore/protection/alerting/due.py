"""Decide which alerts a channel must send now. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from farshore.api_types.events import Severity
from farshore.catalog.tables import AlertChannelRow, AlertNoticeRow, AlertRow
from farshore.protection.alerting.message import Notice

SECOND = 1_000_000_000
TOGETHER = 10 * SECOND
"""Alerts that occur within this time of the first are sent in one message."""
_ORDER = list(Severity)


def due(
    channel: AlertChannelRow, alerts: Iterable[AlertRow], told: Mapping[int, AlertNoticeRow], now: int
) -> tuple[Notice, ...]:
    """Return the notices that are due, oldest first; none while more may come that belong in the same message.

    ``alerts``: the open ones, and those that are over and whose end this channel has not sent. ``told``: what this
    channel has sent, by alert. An alert that ended before it was sent is not sent."""
    found: list[Notice] = []
    waited = False
    for alert in sorted(alerts, key=lambda row: row.id):
        if _ORDER.index(Severity(alert.severity)) < _ORDER.index(Severity(channel.severity)):
            continue
        notice = told.get(alert.id)
        if alert.cleared:
            if notice is None or notice.over:
                continue
            state, since = "over", alert.cleared
        elif notice is None:
            state, since = "raised", alert.raised
        elif channel.repeat_every and not alert.acknowledged and now - notice.sent >= channel.repeat_every * SECOND:
            state, since = "open", 0
        else:
            continue
        waited = waited or not 0 <= now - since < TOGETHER  # a clock that was set back also ends the wait
        found.append(
            Notice(
                state,
                alert.id,
                alert.kind,
                Severity(alert.severity),
                alert.subject,
                alert.message,
                alert.remedy,
                alert.raised,
                alert.cleared,
            )
        )
    return tuple(found) if waited else ()
