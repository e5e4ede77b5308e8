"""Queries over replication policies."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from sqlalchemy import select

from farshore.catalog.database import Transaction
from farshore.catalog.tables import MachineRow, PolicyRow
from farshore.model.errors import NotFound, WrongState
from farshore.model.policy import ReplicationPolicy


def every(tx: Transaction) -> list[PolicyRow]:
    """All policies, by name."""
    return list(tx.scalars(select(PolicyRow).order_by(PolicyRow.name)))


def get(tx: Transaction, name: str) -> PolicyRow:
    """One policy. Raises NotFound."""
    row = tx.get(PolicyRow, name)
    if row is None:
        raise NotFound(f"There is no policy {name!r}.", remedy="See `farshore policy list`.")
    return row


def ensure_default(tx: Transaction) -> None:
    """Have the policy that machines get unless told otherwise."""
    policy = ReplicationPolicy()
    if tx.get(PolicyRow, policy.name) is None:
        tx.add(PolicyRow(**asdict(policy)))


def create(tx: Transaction, policy: ReplicationPolicy) -> PolicyRow:
    """A new policy. Raises WrongState where the name is taken."""
    if tx.get(PolicyRow, policy.name) is not None:
        raise WrongState(
            f"There is a policy {policy.name!r} already.", remedy="Choose another name, or update that policy."
        )
    row = PolicyRow(**asdict(policy))
    tx.add(row)
    tx.flush()
    return row


def change(tx: Transaction, name: str, values: dict[str, Any]) -> PolicyRow:
    """Set some of a policy's values. Raises NotFound."""
    row = get(tx, name)
    for field, value in values.items():
        setattr(row, field, value)
    tx.flush()
    return row


def delete(tx: Transaction, name: str) -> None:
    """Drop a policy. Raises NotFound, WrongState while a machine follows it."""
    row = get(tx, name)
    followers = list(tx.scalars(select(MachineRow.name).where(MachineRow.policy == name).limit(3)))
    if name == ReplicationPolicy().name or followers:
        raise WrongState(
            f"Policy {name!r} is in use ({', '.join(followers) or 'it is the default'}).",
            remedy="Give those machines another policy first: farshore machine protect MACHINE --policy NAME.",
        )
    tx.delete(row)
