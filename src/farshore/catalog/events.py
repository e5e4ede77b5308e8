"""Queries over events (what happened, who requested it) and alerts (present problems).

A follower asks for events after the last id that it saw. Ids are assigned when an event is written, and an event is
visible when its transaction has committed. So on PostgreSQL, where several write at once, a later id can become visible
first, and a follower that continued from there would never see the earlier one. Therefore a follower lists no further
than ``settled``, below which no event can appear any longer.

``settled`` looks for writers in progress. Each writer holds, until its transaction has ended and is visible, a shared
advisory lock with the last id that was assigned before it began to write events (``_announce``): its own ids are
larger. ``settled`` reads the last assigned id, *then* those locks, and takes the smallest. A writer that had an id by
the first read has announced itself before. It either still holds the lock, or has ended, and is visible to a
transaction that begins now. Writers do not wait for each other, nor for followers. Cursors by time would lose events
with equal times and after clock changes; cursors by transaction number (``pg_snapshot_xmin``) would be invalid in a
database that was dumped and loaded. SQLite has one writer at a time: there ids become visible in order.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from sqlalchemy import delete, func, select, text

from farshore.api_types.events import Severity
from farshore.catalog import audit
from farshore.catalog.database import Transaction, portions
from farshore.catalog.tables import AlertRow, EventRow

USERS = "user/"
HOUR = 3600 * 1_000_000_000
MOST_AN_HOUR = 60
ANNOUNCED = "farshore_events_announced"
LOCKS = 0xE7E47 << 40
"""Advisory locks from here on, for 2^40 ids, are ours. PostgreSQL's ``pg_locks`` shows them in two halves."""
_ANNOUNCE = text("SELECT pg_advisory_xact_lock_shared(:base + last_value) FROM events_id_seq")
_LAST_GIVEN = text("SELECT last_value FROM events_id_seq")
_UNDER_WAY = text(
    "SELECT min(at) - :base FROM (SELECT (classid::bigint << 32) | objid::bigint AS at FROM pg_locks"
    " WHERE locktype = 'advisory' AND objsubid = 1 AND granted"
    " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())) AS held"
    " WHERE at >= :base AND at < :base + (1::bigint << 40)"
)
AUDITED = (
    "machine.enrolled",
    "machine.same-hardware",
    "process-server.enrolled",
    "process-server.overstepped",
    "process-server.token-reused",
    "master-target.enrolled",
)


def record(
    tx: Transaction,
    *,
    time: int,
    kind: str,
    actor: str,
    subject: str,
    message: str,
    severity: Severity = Severity.INFORMATION,
    detail: dict[str, Any] | None = None,
) -> None:
    """Write one event, in the transaction of the change that it describes. Changes by users, and changes of who may
    call, are also written to the audit log, which keeps them permanently."""
    if actor.startswith(USERS) or kind.startswith(AUDITED):
        audit.append(tx, time=time, kind=kind, actor=actor, subject=subject, message=message, detail=detail)
    _announce(tx)
    tx.add(
        EventRow(
            time=time,
            kind=kind,
            severity=severity.value,
            actor=actor,
            subject=subject,
            message=message,
            detail=detail or {},
        )
    )


def record_some(tx: Transaction, *, subject: str, kind: str, time: int, message: str, **rest: Any) -> None:
    """Record an event that a machine causes: at most ``MOST_AN_HOUR`` of a kind about one subject; the last of them
    says so. One machine must not displace all other events."""
    since = select(func.count()).where(EventRow.subject == subject, EventRow.kind == kind, EventRow.time > time - HOUR)
    told = tx.scalar(since) or 0
    if told >= MOST_AN_HOUR:
        return
    if told == MOST_AN_HOUR - 1:
        message = f"{message} More of the kind within this hour are not listed."
    record(tx, subject=subject, kind=kind, time=time, message=message, **rest)


def _announce(tx: Transaction) -> None:
    """Announce a transaction to ``settled`` before its first event."""
    if tx.get_bind().dialect.name == "postgresql" and ANNOUNCED not in tx.info:
        tx.execute(_ANNOUNCE, {"base": LOCKS})
        tx.info[ANNOUNCED] = True


def settled(tx: Transaction) -> int:
    """Return the id up to which no event can appear any longer. List up to it in a transaction that begins
    afterwards."""
    if tx.get_bind().dialect.name != "postgresql":
        return tx.scalar(select(func.max(EventRow.id))) or 0
    given = int(tx.scalars(_LAST_GIVEN).one())  # before the locks: see above
    under_way = tx.scalar(_UNDER_WAY, {"base": LOCKS})
    return given if under_way is None else min(given, int(under_way))


def listed(
    tx: Transaction,
    *,
    after: int = 0,
    until: int | None = None,
    newest: bool = False,
    subject: str | None = None,
    kind: str | None = None,
    actor: str | None = None,
    limit: int = 100,
) -> list[EventRow]:
    """Return events with ids above ``after`` and up to ``until``, oldest first; with ``newest`` the last ``limit`` of
    them. ``kind`` and ``actor`` may be prefixes."""
    wanted = select(EventRow).where(EventRow.id > after).limit(limit)
    if until is not None:
        wanted = wanted.where(EventRow.id <= until)
    if subject is not None:
        wanted = wanted.where(EventRow.subject == subject)
    if kind is not None:
        wanted = wanted.where(EventRow.kind.startswith(kind, autoescape=True))
    if actor is not None:
        wanted = wanted.where(EventRow.actor.startswith(actor, autoescape=True))
    if newest:
        return list(tx.scalars(wanted.order_by(EventRow.id.desc())))[::-1]
    return list(tx.scalars(wanted.order_by(EventRow.id)))


def prune(tx: Transaction, before: int, most: int) -> None:
    """Delete events and cleared alerts from before a time (ns), and the oldest events beyond the newest ``most``. The
    newest of all is kept: SQLite would assign its id again, and followers have already seen that id."""
    tx.execute(delete(AlertRow).where(AlertRow.cleared != 0, AlertRow.cleared < before))
    newest = tx.scalar(select(func.max(EventRow.id))) or 0
    tx.execute(delete(EventRow).where(EventRow.time < before, EventRow.id < newest))
    oldest_kept = tx.scalar(select(EventRow.id).order_by(EventRow.id.desc()).offset(most - 1).limit(1))
    if oldest_kept is not None:
        tx.execute(delete(EventRow).where(EventRow.id < oldest_kept))


def open_alert(tx: Transaction, kind: str, subject: str) -> AlertRow | None:
    """Return the alert of this kind about this subject that has not been cleared."""
    wanted = select(AlertRow).where(AlertRow.kind == kind, AlertRow.subject == subject, AlertRow.cleared == 0)
    return tx.scalar(wanted.limit(1))


def open_alerts(tx: Transaction) -> list[AlertRow]:
    """Return all alerts that have not been cleared, oldest first."""
    return list(tx.scalars(select(AlertRow).where(AlertRow.cleared == 0).order_by(AlertRow.id)))


def open_now(tx: Transaction) -> set[tuple[str, str, str]]:
    """Return kind, subject and message of the alerts that have not been cleared."""
    columns = select(AlertRow.kind, AlertRow.subject, AlertRow.message).where(AlertRow.cleared == 0)
    return {(kind, subject, message) for kind, subject, message in tx.execute(columns)}


def open_alerts_about(tx: Transaction, kinds: Collection[str], subjects: Collection[str]) -> list[AlertRow]:
    """Return the alerts of these kinds about these subjects that have not been cleared, oldest first."""
    found: list[AlertRow] = []
    for some in portions(sorted(subjects)):
        wanted = select(AlertRow).where(AlertRow.kind.in_(kinds), AlertRow.subject.in_(some), AlertRow.cleared == 0)
        found += tx.scalars(wanted)
    return sorted(found, key=lambda row: row.id)


def count_open_alerts(tx: Transaction) -> int:
    """Return how many alerts have not been cleared."""
    return tx.scalar(select(func.count()).select_from(AlertRow).where(AlertRow.cleared == 0)) or 0


def alerts(tx: Transaction, limit: int = 100) -> list[AlertRow]:
    """Return alerts newest first, cleared ones too."""
    return list(tx.scalars(select(AlertRow).order_by(AlertRow.id.desc()).limit(limit)))


def raise_alert(tx: Transaction, row: AlertRow) -> None:
    """Open an alert for a condition."""
    tx.add(row)
