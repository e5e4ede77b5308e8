"""Send each channel what is due, and call heartbeat URLs. The configuration server does both repeatedly.

What is due is claimed in one transaction, sent outside of any, and noted in another, so of several servers only one
sends. If a server dies in between, the message is sent again: it may be sent twice, but is never lost.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field

from farshore.api_types.alerts import ChannelKind
from farshore.api_types.events import Severity
from farshore.backoff import Backoff
from farshore.catalog import alert_channels, machines, policies
from farshore.catalog.database import Catalog, Transaction
from farshore.catalog.tables import AlertChannelRow
from farshore.model.errors import FarshoreError, WrongState
from farshore.model.ports import Clock
from farshore.protection.alerting.due import SECOND, due
from farshore.protection.alerting.heartbeat import HeartbeatUrl, broken
from farshore.protection.alerting.message import Message, Notice
from farshore.protection.alerting.registry import OpenSecret, opened
from farshore.protection.watch import AlertCondition

log = logging.getLogger(__name__)

FAILING = "alert-channel-failing"
"""Kind of the alert."""
_CLAIM = 120 * SECOND
"""Longer than a channel may take to send."""
_FIRST_PAUSE, _LONGEST_PAUSE = 10.0, 300.0


@dataclass
class _Standing:
    """State of a channel at this server: the time of the next try, by the monotonic clock, and its pauses."""

    next: float = 0.0
    backoff: Backoff = field(default_factory=lambda: Backoff(_FIRST_PAUSE, _LONGEST_PAUSE))


class Telling:
    """``server``: the URL in messages. ``unseal``: opens the channels' secrets."""

    def __init__(self, catalog: Catalog, clock: Clock, server: str, unseal: OpenSecret) -> None:
        self._catalog = catalog
        self._clock = clock
        self._server = server
        self._unseal = unseal
        self._standing: dict[str, _Standing] = {}

    def tell(self) -> None:
        """Send every channel what is due on it."""
        for row in self._rows(heartbeats=False):
            if self._may_try(row):
                self._tell_one(row)

    def beat(self) -> None:
        """Call the heartbeat URLs that are due, if every RPO holds now."""
        rows = [row for row in self._rows(heartbeats=True) if self._may_try(row)]
        if not rows or self._broken():
            return
        for row in rows:
            try:
                channel = opened(row, self._unseal)
                assert isinstance(channel, HeartbeatUrl)
                channel.call()
            except FarshoreError as error:
                self._failed(row, error)
            else:
                self._worked(row, "", channel.every)

    def test(self, name: str) -> str:
        """Send a test message at once; return what went wrong although it was accepted. Raises what the channel raises,
        NotFound, and WrongState for a heartbeat URL while not every RPO holds."""
        with self._catalog.reading() as tx:
            row = alert_channels.get(tx, name)
        channel = opened(row, self._unseal)
        if isinstance(channel, HeartbeatUrl):
            why = self._broken()
            if why:
                raise WrongState(f"The heartbeat URL is not called now: {why}", remedy="Run `farshore status`.")
            channel.call()
            return ""
        return channel.send(Message(self._server, self._clock.now(), test=True))

    def conditions(self) -> list[AlertCondition]:
        """Return conditions for the watch: channels that fail."""
        with self._catalog.reading() as tx:
            rows = alert_channels.every(tx)
        return [
            AlertCondition(
                FAILING,
                f"alert-channel/{row.name}",
                Severity.WARNING,
                f"Alerts do not reach {row.name}: {row.trouble}",
                f"Fix the problem, then run: farshore alert test {row.name}",
            )
            for row in rows
            if row.trouble
        ]

    def _rows(self, *, heartbeats: bool) -> list[AlertChannelRow]:
        with self._catalog.reading() as tx:
            rows = alert_channels.every(tx)
        return [row for row in rows if (row.kind == ChannelKind.HEARTBEAT.value) == heartbeats]

    def _may_try(self, row: AlertChannelRow) -> bool:
        standing = self._standing.setdefault(row.name, _Standing())
        return self._clock.monotonic() >= standing.next

    def _broken(self) -> str:
        with self._catalog.reading() as tx:
            return broken(machines.watched(tx), policies.every(tx), self._clock.now())

    def _tell_one(self, row: AlertChannelRow) -> None:
        with self._catalog.reading() as tx:
            if not self._due(tx, row):
                return
        notices = self._catalog.write(lambda tx: self._claim(tx, row.name))
        if not notices:
            return
        try:
            warning = opened(row, self._unseal).send(Message(self._server, self._clock.now(), notices))
        except FarshoreError as error:
            self._failed(row, error)
        except Exception as error:  # noqa: BLE001 - a library's defect must not silence the other channels
            log.error("Alert channel %s failed by a defect: %s.", row.name, type(error).__name__)
            self._failed(row, error)
        else:
            self._worked(row, warning, 0.0, notices)

    def _due(self, tx: Transaction, row: AlertChannelRow) -> tuple[Notice, ...]:
        told = alert_channels.told(tx, row.name)
        return due(row, alert_channels.concerning(tx, told), told, self._clock.now())

    def _claim(self, tx: Transaction, name: str) -> tuple[Notice, ...]:
        row, now = alert_channels.get(tx, name), self._clock.now()
        if row.claimed and 0 <= now - row.claimed < _CLAIM:
            return ()
        notices = self._due(tx, row)
        if notices:
            row.claimed = now
        return notices

    def _worked(self, row: AlertChannelRow, warning: str, again: float, notices: tuple[Notice, ...] = ()) -> None:
        self._standing[row.name] = _Standing(self._clock.monotonic() + again)

        def noted(tx: Transaction) -> None:
            now = self._clock.now()
            for one in notices:
                alert_channels.note(tx, row.name, one.alert, now, over=one.state == "over")
            self._set(tx, row.name, warning, delivered=True)

        self._write_unless_gone(noted)

    def _failed(self, row: AlertChannelRow, error: Exception) -> None:
        standing = self._standing[row.name]
        standing.next = self._clock.monotonic() + standing.backoff.pause()
        # The text of a defect may contain a URL, and so a secret.
        trouble = error.message if isinstance(error, FarshoreError) else f"a defect ({type(error).__name__})"
        log.warning("Alert channel %s does not work: %s", row.name, trouble)
        self._write_unless_gone(lambda tx: self._set(tx, row.name, trouble, delivered=False))

    def _write_unless_gone(self, change: Callable[[Transaction], None]) -> None:
        try:
            self._catalog.write(change)
        except FarshoreError as error:  # it was removed meanwhile, or an alert was
            log.warning("The messages sent on a channel could not be recorded: %s", error)

    def _set(self, tx: Transaction, name: str, trouble: str, *, delivered: bool) -> None:
        row, now = alert_channels.get(tx, name), self._clock.now()
        row.claimed = 0
        if delivered:
            row.delivered = now
        if trouble != row.trouble:
            row.trouble_since = (row.trouble_since or now) if trouble else 0
            row.trouble = trouble
