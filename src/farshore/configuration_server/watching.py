"""The watch's round: brings the open alerts in line with what is wrong now, and machines to servers that are well."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from farshore.catalog import commands, epochs, events, machines, policies, process_servers, users
from farshore.catalog.database import Catalog
from farshore.model.ports import Clock
from farshore.protection import moving, server_enrolment
from farshore.protection.attention import Attention
from farshore.protection.clocks import OwnClock
from farshore.protection.silence import Silence
from farshore.protection.watch import DAMAGE, DAMAGE_OLDER, Condition, conditions, raise_once, reconcile

DAY = 86400 * 1_000_000_000


class Watch:
    """Used by one thread, which calls ``look`` every few seconds."""

    def __init__(self, catalog: Catalog, clock: Clock, silence: Silence, own: OwnClock) -> None:
        self._catalog, self._clock, self._silence, self._own = catalog, clock, silence, own
        self._attention = Attention(clock)

    def look(self, more: Sequence[Condition] = ()) -> None:
        """Compare what is with what should be; write only where they differ. ``more``: what others found wrong."""
        if self._own.look():
            self._attention.forget()
        now = self._clock.now()
        with self._catalog.reading() as tx:
            servers, rules = process_servers.every(tx), policies.every(tx)
            judged = machines.watched(tx, self._attention.choose(tx, rules, now))
            present = [*conditions(judged, rules, servers, now), *self._own.conditions(), *more]
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
    """What makes it another alert, or worth an update: of damage, which places it is about."""
    return kind, subject, message if kind in (DAMAGE, DAMAGE_OLDER) else ""


def tell(catalog: Catalog, clock: Clock, condition: Condition) -> None:
    """Raise one alert at once, unless it is open; the watch clears it."""
    catalog.write(lambda tx: raise_once(tx, condition, clock.now()))


def prune(catalog: Catalog, clock: Clock, days: int, most: int) -> None:
    """Forget events older than ``days``, and the oldest beyond the newest ``most``; alerts that are over with them, and
    commands that were closed before."""
    catalog.write(lambda tx: events.prune(tx, clock.now() - days * DAY, most))
    catalog.write(lambda tx: commands.prune(tx, clock.now() - days * DAY))
