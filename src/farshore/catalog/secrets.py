"""Queries over sealed secrets and remembered SSH host keys."""

from __future__ import annotations

from farshore.catalog.database import Transaction
from farshore.catalog.tables import HostKeyRow, SecretRow
from farshore.model.errors import NotFound


def keep(tx: Transaction, row: SecretRow) -> None:
    """Store a sealed secret for a job."""
    tx.add(row)


def get(tx: Transaction, secret: str) -> bytes:
    """Return a sealed secret. Raises NotFound."""
    row = tx.get(SecretRow, secret)
    if row is None:
        raise NotFound("The secret of this job was deleted.", remedy="Start the job again.")
    return row.sealed


def drop(tx: Transaction, secret: str) -> None:
    """Delete a secret; it may be deleted already."""
    row = tx.get(SecretRow, secret)
    if row is not None:
        tx.delete(row)


def host_key(tx: Transaction, host: str) -> str:
    """Return the fingerprint that ``host`` showed at first contact, empty for none."""
    row = tx.get(HostKeyRow, host)
    return "" if row is None else row.fingerprint


def remember_host_key(tx: Transaction, host: str, fingerprint: str, now: int) -> None:
    """Pin a host's key from now on."""
    row = tx.get(HostKeyRow, host) or HostKeyRow(host=host)
    row.fingerprint, row.seen = fingerprint, now
    tx.add(row)
