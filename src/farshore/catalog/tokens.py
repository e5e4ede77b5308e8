"""Queries over one-time enrolment tokens. Only a token's digest is kept."""

from __future__ import annotations

import hashlib

from sqlalchemy import delete, select

from farshore.catalog.database import Transaction
from farshore.catalog.tables import TokenRow
from farshore.model.errors import NotFound, Unauthenticated


def digest(token: str) -> str:
    """Return the hash under which a token is stored. A token has 256 random bits, so a plain hash is enough."""
    return hashlib.sha256(token.encode()).hexdigest()


def add(tx: Transaction, row: TokenRow) -> None:
    """Add a token."""
    tx.add(row)


def every(tx: Transaction) -> list[TokenRow]:
    """Return all tokens, newest first."""
    return list(tx.scalars(select(TokenRow).order_by(TokenRow.created.desc())))


def spend(tx: Transaction, token: str, now: int) -> TokenRow:
    """Use a token up. Raises Unauthenticated for one that is unknown, expired or used already."""
    row = tx.scalar(select(TokenRow).where(TokenRow.digest == digest(token)))
    remedy = "Create another one: farshore token create"
    if row is None:
        raise Unauthenticated("This enrolment token is not known here.", remedy=remedy)
    if row.used:
        raise Unauthenticated("This enrolment token was used already.", remedy=remedy)
    if row.expires <= now:
        raise Unauthenticated("This enrolment token has expired.", remedy=remedy)
    row.used = now
    tx.flush()
    return row


def spent(tx: Transaction, token: str) -> TokenRow | None:
    """Return a token that was used up already; None for any other."""
    row = tx.scalar(select(TokenRow).where(TokenRow.digest == digest(token)))
    return row if row is not None and row.used else None


def drop_of_server(tx: Transaction, server: str) -> None:
    """Delete the tokens of a process server that no longer exists."""
    tx.execute(delete(TokenRow).where(TokenRow.process_server == server))


def prolong(tx: Transaction, token_id: str, expires: int) -> None:
    """Let an unused token expire at that time; a used or deleted one is unchanged."""
    row = tx.get(TokenRow, token_id)
    if row is not None and not row.used:
        row.expires = expires


def drop_of_master_target(tx: Transaction, master_target: str) -> None:
    """Delete the tokens of a master target that no longer exists."""
    tx.execute(delete(TokenRow).where(TokenRow.master_target == master_target))


def revoke(tx: Transaction, token_id: str) -> None:
    """Delete a token. Raises NotFound."""
    row = tx.get(TokenRow, token_id)
    if row is None:
        raise NotFound(f"There is no token {token_id}.", remedy="See `farshore token list`.")
    tx.delete(row)


def revoke_unused(tx: Transaction, token_id: str) -> None:
    """Delete an unused token; a used or deleted one is unchanged."""
    row = tx.get(TokenRow, token_id)
    if row is not None and not row.used:
        tx.delete(row)


def machine_of(tx: Transaction, token_id: str) -> str:
    """Return the machine that enrolled with a token, empty for none."""
    row = tx.get(TokenRow, token_id)
    return row.machine if row is not None and row.used else ""
