"""The watch's round: brings the open alerts in line with what is wrong now, and machines to servers that are well."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from farshore.catalog import commands, epochs, events, machines, policies, process_servers, users
from farshore.catalog.database import Catalog
from farshore.catalog.tables import AlertRow
from farshore.model.ports import Clock
from farshore.protection import moving, server_enrolment
from farshore.protection.clocks import OwnClock
from farshore.protection.silence import Silence
from farshore.protection.watch import DAMAGE, DAMAGE_OLDER, Condition, conditions, raise_once, reconcile

DAY = 86400 * 1_000_000_000


def look(catalog: Catalog, clock: Clock, silence: Silence, own: OwnClock, more: Sequence[Condition] = ()) -> None:
    """Compare what is with what should be; write only where they differ. ``more`` is what others found wrong."""
    own.look()
    now = clock.now()
    with catalog.reading() as tx:
        every, servers = machines.watched(tx), process_servers.every(tx)
        present = [*conditions(every, policies.every(tx), servers, now), *own.conditions(), *more]
        known = {_told(alert) for alert in events.open_alerts(tx)}
        dead = silence.given_up(servers) | users.shut_out(tx, server_enrolment.KIND)
        moves = moving.decide(every, servers, epochs.streaming(tx), dead, now)
    if known != {_told(condition) for condition in present}:
        catalog.write(lambda tx: reconcile(tx, present, now))
    for move in moves:
        catalog.write(partial(moving.carry_out, move=move, now=now))


def _told(one: AlertRow | Condition) -> tuple[str, str, str]:
    """What makes it another alert, or worth an update: of damage, which places it is about."""
    return one.kind, one.subject, one.message if one.kind in (DAMAGE, DAMAGE_OLDER) else ""


def tell(catalog: Catalog, clock: Clock, condition: Condition) -> None:
    """Raise one alert at once, unless it is open; ``look`` clears it."""
    catalog.write(lambda tx: raise_once(tx, condition, clock.now()))


def prune(catalog: Catalog, clock: Clock, days: int, most: int) -> None:
    """Forget events older than ``days``, and the oldest beyond the newest ``most``; alerts that are over with them, and
    commands that were closed before."""
    catalog.write(lambda tx: events.prune(tx, clock.now() - days * DAY, most))
    catalog.write(lambda tx: commands.prune(tx, clock.now() - days * DAY))
