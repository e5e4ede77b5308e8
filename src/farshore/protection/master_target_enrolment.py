"""Enrol another master target: an operator invites it, and it exchanges its one-time token for an identity.

It does not listen on a port, so its certificate names no host and cannot be used as a server's.
"""

from __future__ import annotations

from farshore.api_types.master_targets import MasterTargetAddition
from farshore.catalog import events, master_targets, tokens, users
from farshore.catalog.change_details import Details, changed, fields_of, gone, made
from farshore.catalog.database import Transaction
from farshore.catalog.tables import MasterTargetRow, TokenRow
from farshore.model.errors import Unauthenticated, WrongState
from farshore.model.identifiers import new_id
from farshore.model.policy import ReplicationPolicy
from farshore.protection.enrolment import NewToken, issue

KIND = "master-target"


def invite(tx: Transaction, request: MasterTargetAddition, creator: str, now: int) -> tuple[MasterTargetRow, NewToken]:
    """Return its row and a token with which it may enrol. Raises WrongState if the name is taken."""
    row = MasterTargetRow(id=new_id(), name=request.name)
    master_targets.invite(tx, row)
    opens = TokenRow(name=row.name, policy=ReplicationPolicy().name, protect=False, master_target=row.id)
    token = issue(tx, opens, creator, now, request.valid_seconds)
    _tell(tx, row, "invited", creator, f"Master target {row.name} was invited.", now, made(fields_of(row, ("name",))))
    return row, token


def enrol(tx: Transaction, token: str, now: int) -> MasterTargetRow:
    """Spend the token; the caller signs a certificate. Raises Unauthenticated."""
    spent = tokens.spend(tx, token, now)
    if not spent.master_target:
        raise Unauthenticated(
            "This token is not for a master target.",
            remedy="Create one for a master target: farshore master-target add NAME",
        )
    row = master_targets.get(tx, spent.master_target)
    users.revoke_certificates(tx, KIND, row.id, now)
    row.revoked = False
    _tell(tx, row, "enrolled", f"{KIND}/{row.id}", f"Master target {row.name} has enrolled.", now)
    return row


def revoke(tx: Transaction, row: MasterTargetRow, actor: str, now: int) -> None:
    """Revoke a master target: it gets no more answers and no keys. Its errands wait for it no longer than their
    failback does."""
    users.revoke_certificates(tx, KIND, row.id, now)
    tokens.drop_of_master_target(tx, row.id)
    details = changed({"revoked": row.revoked}, {"revoked": True})
    row.revoked, row.last_seen = True, 0
    _tell(tx, row, "revoked", actor, f"Master target {row.name} was revoked.", now, details)


def remove(tx: Transaction, row: MasterTargetRow, actor: str, now: int) -> None:
    """Delete a master target; its certificates open nothing from now on. Raises WrongState for the one that ``farshore
    up`` runs, and while a failback waits for it."""
    if row.own:
        raise WrongState(
            f"{row.name} is run by `farshore up`.",
            remedy="To turn it off: farshore up --no-master-target",
        )
    if master_targets.open_of(tx, row.id):
        raise WrongState(
            f"{row.name} is writing disks for a failback.",
            remedy="Cancel the failback first: farshore failback cancel MACHINE",
        )
    users.revoke_certificates(tx, KIND, row.id, now)
    tokens.drop_of_master_target(tx, row.id)
    details = gone(fields_of(row, ("name",)))
    master_targets.delete(tx, row)
    _tell(tx, row, "removed", actor, f"Master target {row.name} was removed.", now, details)


def leave_out(tx: Transaction, now: int) -> None:
    """Remove the master target that ``farshore up`` ran here or in another installation, and revoke its
    certificates."""
    for row in master_targets.every(tx):
        if row.own:
            users.revoke_certificates(tx, KIND, row.id, now)
            master_targets.delete(tx, row)


def _tell(
    tx: Transaction, row: MasterTargetRow, what: str, actor: str, message: str, now: int, details: Details | None = None
) -> None:
    subject, kind = f"{KIND}/{row.id}", f"{KIND}.{what}"
    events.record(tx, time=now, kind=kind, actor=actor, subject=subject, message=message, detail=details)
