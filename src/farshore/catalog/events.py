"""Queries over events (what happened, who asked for it) and alerts (what is wrong now)."""

from __future__ import annotations

from typing import Any

from sqlalchemy import delete, func, select

from farshore.api_types.events import Severity
from farshore.catalog import audit
from farshore.catalog.database import Transaction
from farshore.catalog.tables import AlertRow, EventRow

USERS = "user/"
HOUR = 3600 * 1_000_000_000
MOST_AN_HOUR = 60
AUDITED = ("machine.enrolled", "machine.same-hardware", "process-server.enrolled", "process-server.overstepped")


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
    """Write one line of the log, in the transaction of the change that it tells of. What somebody changed, or what
    changed who may call, goes into the audit log as well, which keeps it for good."""
    if actor.startswith(USERS) or kind.startswith(AUDITED):
        audit.append(tx, time=time, kind=kind, actor=actor, subject=subject, message=message, detail=detail)
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
    """As ``record``, for what a machine causes: at most ``MOST_AN_HOUR`` of a kind about one subject, the last of which
    says so. One machine must not push everybody else's events out."""
    since = select(func.count()).where(EventRow.subject == subject, EventRow.kind == kind, EventRow.time > time - HOUR)
    told = tx.scalar(since) or 0
    if told >= MOST_AN_HOUR:
        return
    if told == MOST_AN_HOUR - 1:
        message = f"{message} More of the kind within this hour are not listed."
    record(tx, subject=subject, kind=kind, time=time, message=message, **rest)


def listed(
    tx: Transaction,
    *,
    after: int = 0,
    subject: str | None = None,
    kind: str | None = None,
    actor: str | None = None,
    limit: int = 100,
) -> list[EventRow]:
    """Events newest first; ``after`` is the id of the last one seen, ``kind`` and ``actor`` may be prefixes."""
    wanted = select(EventRow).where(EventRow.id > after).order_by(EventRow.id.desc()).limit(limit)
    if subject is not None:
        wanted = wanted.where(EventRow.subject == subject)
    if kind is not None:
        wanted = wanted.where(EventRow.kind.startswith(kind, autoescape=True))
    if actor is not None:
        wanted = wanted.where(EventRow.actor.startswith(actor, autoescape=True))
    return list(tx.scalars(wanted))


def prune(tx: Transaction, before: int, most: int) -> None:
    """Forget events and cleared alerts from before a time (ns), and the oldest events beyond the newest ``most``."""
    tx.execute(delete(EventRow).where(EventRow.time < before))
    tx.execute(delete(AlertRow).where(AlertRow.cleared != 0, AlertRow.cleared < before))
    oldest_kept = tx.scalar(select(EventRow.id).order_by(EventRow.id.desc()).offset(most - 1).limit(1))
    if oldest_kept is not None:
        tx.execute(delete(EventRow).where(EventRow.id < oldest_kept))


def open_alert(tx: Transaction, kind: str, subject: str) -> AlertRow | None:
    """The alert of this kind about this subject that has not been cleared."""
    wanted = select(AlertRow).where(AlertRow.kind == kind, AlertRow.subject == subject, AlertRow.cleared == 0)
    return tx.scalar(wanted.limit(1))


def open_alerts(tx: Transaction) -> list[AlertRow]:
    """All alerts that have not been cleared, oldest first."""
    return list(tx.scalars(select(AlertRow).where(AlertRow.cleared == 0).order_by(AlertRow.id)))


def alerts(tx: Transaction, limit: int = 100) -> list[AlertRow]:
    """Alerts newest first, cleared ones too."""
    return list(tx.scalars(select(AlertRow).order_by(AlertRow.id.desc()).limit(limit)))


def raise_alert(tx: Transaction, row: AlertRow) -> None:
    """A condition has come up."""
    tx.add(row)
    tx.flush()
