"""The watch's round: update the open alerts, and move machines to healthy servers.

Nothing was received while this server did not run. After a start it waits as long as an agent may be silent, and until
then judges everything as of its stop, so a restart raises no alert that would soon clear without action.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from farshore.catalog import (
    commands,
    differences,
    epochs,
    events,
    guest_scripts,
    machines,
    master_targets,
    policies,
    process_servers,
    users,
)
from farshore.catalog.database import Catalog
from farshore.model.ports import Clock
from farshore.protection import moving, server_enrolment
from farshore.protection.attention import Attention
from farshore.protection.clocks import OwnClock
from farshore.protection.silence import SilenceWatch
from farshore.protection.watch import (
    AGENT_SILENT_AFTER,
    DAMAGE,
    DAMAGE_OLDER,
    DIFFERS,
    SECOND,
    AlertCondition,
    conditions,
    raise_once,
    reconcile,
)

DAY = 86400 * 1_000_000_000
SETTLE_SECONDS = AGENT_SILENT_AFTER / SECOND
"""After a start: a heartbeat's interval and its grace."""


class Watch:
    """Used by one thread, which calls ``look`` every few seconds."""

    def __init__(self, catalog: Catalog, clock: Clock, silence: SilenceWatch, own: OwnClock) -> None:
        self._catalog, self._clock, self._silence, self._own = catalog, clock, silence, own
        self._attention = Attention(clock)
        self._away = 0
        """ns in which nothing was received before the start; 0 once that is over."""
        self._began = clock.monotonic()

    def begin(self) -> None:
        """Call this after a start, before requests are accepted. It determines for how long nothing has been received;
        on a new installation that is 0."""
        with self._catalog.reading() as tx:
            heard = [server.last_seen for server in process_servers.every(tx)]
            heard += [machine.last_seen for machine in machines.watched(tx)]
            heard += [target.last_seen for target in master_targets.every(tx)]
        newest = max(heard, default=0)
        self._away = max(0, self._clock.now() - newest) if newest else 0
        self._began = self._clock.monotonic()

    def look(self, more: Sequence[AlertCondition] = ()) -> None:
        """Compare the present state with the desired one; write only differences. ``more``: problems that others
        found."""
        if self._own.look():
            self._attention.forget()
        now = self._clock.now()
        running = self._clock.monotonic() - self._began
        if self._away and running >= SETTLE_SECONDS:
            self._away = 0
            self._attention.forget()
        heard = now - self._away - int(running * SECOND) if self._away else now
        with self._catalog.reading() as tx:
            servers, rules = process_servers.every(tx), policies.every(tx)
            judged = machines.watched(tx, self._attention.choose(tx, rules, heard))
            present = [
                *conditions(judged, rules, servers, heard, partial(differences.newest, tx), master_targets.every(tx)),
                *self._own.conditions(),
                *more,
            ]
            known = {_told(*alert) for alert in events.open_now(tx)}
            dead = self._silence.given_up(servers) | users.shut_out(tx, server_enrolment.KIND)
            moves: list[moving.Move] = []
            if moving.may_move(tx, servers, dead):
                moves = moving.decide(machines.placed(tx), servers, epochs.streaming(tx), dead, now)
        if known != {_told(one.kind, one.subject, one.message) for one in present}:
            self._catalog.write(lambda tx: reconcile(tx, present, now))
        for move in moves:
            self._catalog.write(partial(moving.carry_out, move=move, now=now))


def _told(kind: str, subject: str, message: str) -> tuple[str, str, str]:
    """Return what identifies an alert or makes it worth an update: for damage and differences, their place."""
    return kind, subject, message if kind in (DAMAGE, DAMAGE_OLDER, DIFFERS) else ""


def tell(catalog: Catalog, clock: Clock, condition: AlertCondition) -> None:
    """Raise one alert at once, unless it is open; the watch clears it."""
    catalog.write(lambda tx: raise_once(tx, condition, clock.now()))


def prune(catalog: Catalog, clock: Clock, days: int, most: int) -> None:
    """Delete events older than ``days``, and the oldest beyond the newest ``most``; also the alerts that ended with
    them, and commands and scripts of checks that were closed before."""
    catalog.write(lambda tx: events.prune(tx, clock.now() - days * DAY, most))
    catalog.write(lambda tx: commands.prune(tx, clock.now() - days * DAY))
    catalog.write(lambda tx: guest_scripts.prune(tx, clock.now() - days * DAY))
