"""Queries over replication policies.

Each policy has a *failback policy*, created with it: its values, for the other direction. A machine that is replicated
from a recovery site follows that one (``turn_away``), until it is at home again (``turn_home``). A value that was not
set in the failback policy follows the policy that it reverses; the target at a site (``target``) does not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from sqlalchemy import select

from farshore.catalog.database import Transaction
from farshore.catalog.tables import JsonObject, MachineRow, PolicyRow
from farshore.model.errors import NotFound, Refused, WrongState
from farshore.model.policy import ReplicationPolicy

_NAME = 54
"""Characters of a policy's name that are part of its failback policy's: a name has 63 at most."""
_NOT_FOLLOWED = frozenset({"name", "target"})


def every(tx: Transaction) -> list[PolicyRow]:
    """Return all policies, by name."""
    return list(tx.scalars(select(PolicyRow).order_by(PolicyRow.name)))


def get(tx: Transaction, name: str) -> PolicyRow:
    """Return one policy. Raises NotFound."""
    row = tx.get(PolicyRow, name)
    if row is None:
        raise NotFound(f"There is no policy {name!r}.", remedy="See `farshore policy list`.")
    return row


def for_machines(tx: Transaction, name: str) -> PolicyRow:
    """Return a policy that a machine can be given. Raises NotFound, Refused for a failback policy."""
    row = get(tx, name)
    if row.reverses:
        raise Refused(
            f"{name!r} is the failback policy of {row.reverses!r}, which applies automatically.",
            remedy=f"Assign the policy {row.reverses!r} to the machine.",
        )
    return row


def ensure_default(tx: Transaction) -> None:
    """Create the default policy of machines if it is missing, and a failback policy for each policy."""
    policy = ReplicationPolicy()
    if tx.get(PolicyRow, policy.name) is None:
        create(tx, policy)
    ensure_failbacks(tx)


def ensure_failbacks(tx: Transaction) -> None:
    """Create missing failback policies: policies of an earlier release have none."""
    for row in every(tx):
        if not row.reverses:
            failback(tx, row)


def create(tx: Transaction, policy: ReplicationPolicy) -> PolicyRow:
    """Return a new policy, with its failback policy. Raises WrongState if the name is taken."""
    if tx.get(PolicyRow, policy.name) is not None:
        raise WrongState(
            f"There is a policy {policy.name!r} already.",
            remedy="Choose another name, or change that policy: farshore policy update",
        )
    row = PolicyRow(**asdict(policy))
    tx.add(row)
    tx.flush()
    failback(tx, row)
    return row


def change(tx: Transaction, name: str, values: dict[str, Any]) -> PolicyRow:
    """Set some of a policy's values, and those values of its failback policy that follow it. Raises NotFound."""
    row = get(tx, name)
    for field, value in values.items():
        setattr(row, field, value)
    if row.reverses:
        row.chosen = sorted({*row.chosen, *values})
    else:
        other = failback(tx, row)
        for field in values.keys() - _NOT_FOLLOWED - set(other.chosen):
            setattr(other, field, values[field])
    tx.flush()
    return row


def delete(tx: Transaction, name: str) -> None:
    """Delete a policy with its failback policy. Raises NotFound, WrongState while a machine follows one of them."""
    row = get(tx, name)
    if row.reverses:
        raise WrongState(
            f"{name!r} is the failback policy of {row.reverses!r} and cannot be deleted alone.",
            remedy=f"Delete both: farshore policy delete {row.reverses}",
        )
    other = failback(tx, row)
    following = MachineRow.policy.in_([name, other.name])
    followers = list(tx.scalars(select(MachineRow.name).where(following).limit(3)))
    if name == ReplicationPolicy().name or followers:
        raise WrongState(
            f"Policy {name!r} is in use ({', '.join(followers) or 'it is the default'}).",
            remedy="Assign another policy to those machines first: farshore machine protect MACHINE --policy NAME.",
        )
    tx.delete(other)
    tx.delete(row)


def failback(tx: Transaction, row: PolicyRow) -> PolicyRow:
    """Return the failback policy of a policy; create it if it is missing."""
    found = tx.scalar(select(PolicyRow).where(PolicyRow.reverses == row.name))
    if found is not None:
        return found
    fields = {name: getattr(row, name) for name in asdict(ReplicationPolicy()) if name not in _NOT_FOLLOWED}
    made = PolicyRow(name=_free_name(tx, row.name), reverses=row.name, target={}, **fields)
    tx.add(made)
    tx.flush()
    return made


def failback_names(tx: Transaction) -> dict[str, str]:
    """Return, by the name of a policy, that of its failback policy."""
    found = select(PolicyRow.reverses, PolicyRow.name).where(PolicyRow.reverses != "")
    return {one.reverses: one.name for one in tx.execute(found)}


def give(tx: Transaction, machine: MachineRow, name: str) -> None:
    """Assign a policy to a machine; its failback policy, while the machine is replicated from a recovery site. Raises
    NotFound, Refused."""
    row = for_machines(tx, name)
    machine.policy = failback(tx, row).name if get(tx, machine.policy).reverses else row.name


def turn_away(tx: Transaction, machine: MachineRow) -> None:
    """Make a machine follow its failback policy, because it is replicated from a recovery site from now on."""
    row = get(tx, machine.policy)
    machine.policy = row.name if row.reverses else failback(tx, row).name


def turn_home(tx: Transaction, machine: MachineRow) -> None:
    """Make a machine that is at home follow its own policy again."""
    machine.policy = get(tx, machine.policy).reverses or machine.policy


def target_away(tx: Transaction, name: str) -> JsonObject:
    """Return the target that this policy sets at a recovery site. The target at home is set by its failback policy."""
    row = get(tx, name)
    return get(tx, row.reverses).target if row.reverses else row.target


def targets_away(tx: Transaction) -> dict[str, JsonObject]:
    """Return the targets that all policies set at a recovery site, by name."""
    rows = every(tx)
    own: Mapping[str, JsonObject] = {row.name: row.target for row in rows}
    return {row.name: own[row.reverses or row.name] for row in rows}


def target_home(tx: Transaction, name: str) -> JsonObject:
    """Return the target that this policy sets at home, after a failback."""
    row = get(tx, name)
    return row.target if row.reverses else failback(tx, row).target


def _free_name(tx: Transaction, name: str) -> str:
    wanted, number = f"{name[:_NAME]}-failback", 2
    while tx.get(PolicyRow, wanted) is not None:
        wanted, number = f"{name[: _NAME - 5]}-failback-{number}", number + 1
    return wanted
