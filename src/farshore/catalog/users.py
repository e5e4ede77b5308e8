"""Queries over users, and over all certificates."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

from sqlalchemy import bindparam, func, select, update

from farshore.catalog.commands import COMMANDS
from farshore.catalog.database import Transaction, say
from farshore.catalog.tables import CertificateRow, UserRow
from farshore.model.errors import NotFound, WrongState

# Used by every request: SQLAlchemy takes twice as long for a statement that is built again.
_BY_SERIAL = select(CertificateRow.kind, CertificateRow.subject, CertificateRow.revoked).where(
    CertificateRow.serial == bindparam("serial")
)
_ROLE = select(UserRow.role).where(UserRow.name == bindparam("name"))


class Issued(NamedTuple):
    """The relevant fields of an issued certificate; ``revoked``: the time, 0: not revoked."""

    kind: str
    subject: str
    revoked: int


def every(tx: Transaction) -> list[UserRow]:
    """Return all users, by name."""
    return list(tx.scalars(select(UserRow).order_by(UserRow.name)))


def find(tx: Transaction, name: str) -> UserRow | None:
    """Return a user, if there is one of that name."""
    return tx.get(UserRow, name)


def role(tx: Transaction, name: str) -> str | None:
    """Return a user's role, or None if there is no such user."""
    return tx.scalar(_ROLE, {"name": name})


def get(tx: Transaction, name: str) -> UserRow:
    """Return a user. Raises NotFound."""
    row = tx.get(UserRow, name)
    if row is None:
        raise NotFound(f"There is no user {name!r}.", remedy="See `farshore user list`.")
    return row


def add(tx: Transaction, row: UserRow) -> None:
    """Add a user. Raises WrongState if the name is taken."""
    if tx.get(UserRow, row.name) is not None:
        raise WrongState(f"There is a user {row.name!r} already.", remedy="Choose another name, or delete that one.")
    tx.add(row)
    tx.flush()


def delete(tx: Transaction, row: UserRow) -> None:
    """Delete a user; revoke the certificates as well."""
    tx.delete(row)


def record_certificate(tx: Transaction, row: CertificateRow) -> None:
    """Record an issued certificate."""
    tx.add(row)
    tx.flush()


def certificate(tx: Transaction, serial: str) -> CertificateRow | None:
    """Return an issued certificate by its serial number (lower-case hex)."""
    return tx.get(CertificateRow, serial)


def issued(tx: Transaction, serial: str) -> Issued | None:
    """Return a certificate with only the fields that each request needs."""
    row = tx.execute(_BY_SERIAL, {"serial": serial}).first()
    return None if row is None else Issued._make(row)


def good_serials(tx: Transaction, kind: str, subjects: Collection[str], now: int) -> dict[str, list[str]]:
    """Return, by subject, the serial numbers of its certificates that are neither revoked nor expired."""
    found: dict[str, list[str]] = {subject: [] for subject in subjects}
    good = select(CertificateRow.subject, CertificateRow.serial).where(
        CertificateRow.kind == kind,
        CertificateRow.subject.in_(found),
        CertificateRow.revoked == 0,
        CertificateRow.expires > now,
    )
    for subject, serial in tx.execute(good.order_by(CertificateRow.serial)):
        found[subject].append(serial)
    return found


def newest_expiry(tx: Transaction, kind: str, subject: str) -> int:
    """Return when the last valid certificate of a subject expires; 0 if there is none."""
    good = select(func.max(CertificateRow.expires)).where(
        CertificateRow.kind == kind, CertificateRow.subject == subject, CertificateRow.revoked == 0
    )
    return tx.scalar(good) or 0


def shut_out(tx: Transaction, kind: str) -> set[str]:
    """Return the subjects of a kind whose certificates are all revoked."""
    every = select(CertificateRow.subject).where(CertificateRow.kind == kind).group_by(CertificateRow.subject)
    return set(tx.scalars(every.having(func.min(CertificateRow.revoked) > 0)))


def revoke_certificates(tx: Transaction, kind: str, subject: str, now: int) -> None:
    """Revoke every certificate of a subject. Open command streams are checked again."""
    good = update(CertificateRow).where(
        CertificateRow.kind == kind, CertificateRow.subject == subject, CertificateRow.revoked == 0
    )
    tx.execute(good.values(revoked=now))
    say(tx, COMMANDS, subject)
    tx.expire_all()
