"""Enrol a machine: it exchanges a one-time token for an identity.

In: the token and the machine's description of itself. Out: its row in the catalog. The caller signs the certificate in
the same transaction, so a token is spent exactly when an identity was given for it.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass

from farshore.api_types.events import Severity
from farshore.api_types.machines import Description, TokenRequest
from farshore.catalog import events, machines, policies, tokens, users
from farshore.catalog.change_details import fields_of, made
from farshore.catalog.database import Transaction
from farshore.catalog.tables import MachineRow, TokenRow
from farshore.model.errors import Malformed, Unauthenticated
from farshore.model.identifiers import MachineId, new_id
from farshore.model.states import MachineState

TOKEN_BYTES = 32
SECOND = 1_000_000_000


@dataclass(frozen=True)
class NewToken:
    """``secret`` is shown to its creator and not stored."""

    id: str
    secret: str
    expires: int


def issue(tx: Transaction, row: TokenRow, creator: str, now: int, valid_seconds: int) -> NewToken:
    """Store a token for the purpose in ``row``; its id, digest and times are filled in here."""
    token = NewToken(new_id(), secrets.token_urlsafe(TOKEN_BYTES), now + valid_seconds * SECOND)
    row.id, row.digest = token.id, tokens.digest(token.secret)
    row.created, row.created_by, row.expires = now, creator, token.expires
    tokens.add(tx, row)
    return token


def create_token(tx: Transaction, request: TokenRequest, creator: str, now: int) -> NewToken:
    """Return a one-time token. Raises NotFound for an unknown policy or machine, Refused for a failback policy."""
    policies.for_machines(tx, request.policy)
    bound = machines.get(tx, request.machine).id if request.machine else ""
    row = TokenRow(name=request.name, policy=request.policy, protect=request.protect, machine=bound)
    token = issue(tx, row, creator, now, request.valid_seconds)
    subject = f"token/{token.id}"
    events.record(
        tx,
        time=now,
        kind="token.created",
        actor=creator,
        subject=subject,
        message="Enrolment token created.",
        detail=made({**fields_of(row, ("name", "policy", "protect", "machine")), "expires": token.expires}),
    )
    return token


def enrol(tx: Transaction, token: str, description: Description, now: int) -> MachineRow:
    """Spend the token for a machine's identity: a new one, or the one that the token is bound to.

    Raises Unauthenticated for an invalid token, Malformed for a description that contradicts itself."""
    check_description(description)
    spent = tokens.spend(tx, token, now)
    if spent.process_server:
        raise Unauthenticated(
            "This token is for a process server.", remedy="Create one for a machine: farshore token create"
        )
    if spent.master_target:
        raise Unauthenticated(
            "This token is for a master target.", remedy="Create one for a machine: farshore token create"
        )
    if spent.machine:
        row = machines.get(tx, spent.machine)
        users.revoke_certificates(tx, "machine", row.id, now)
        row.description = description.model_dump(mode="json")
        if not row.site or description.hardware_id != row.owner:
            row.hardware_id = description.hardware_id
        _tell(tx, row, "machine.enrolled-again", f"{row.name} has enrolled again.", now)
        return row
    twins = machines.with_hardware(tx, description.hardware_id)
    row = MachineRow(
        id=MachineId(new_id()),
        name=spent.name or description.hostname,
        state=MachineState.ENROLLED.value,
        enrolled=now,
        policy=spent.policy,
        description=description.model_dump(mode="json"),
        hardware_id=description.hardware_id,
        protect=spent.protect,
    )
    machines.add(tx, row)
    spent.machine = row.id
    _tell(tx, row, "machine.enrolled", f"{row.name} has enrolled.", now)
    if twins:
        names = ", ".join(twin.name for twin in twins)
        message = f"{row.name} has the hardware id of {names}: is it the same machine?"
        _tell(tx, row, "machine.same-hardware", message, now, Severity.WARNING)
    return row


def check_description(description: Description) -> None:
    """Raise Malformed if a description contradicts itself or is out of range."""
    numbers = [disk.number for disk in description.disks]
    if len(set(numbers)) != len(numbers) or any(not 0 <= number < 65535 for number in numbers):
        raise Malformed(
            "Two disks have the same number, or a number is out of range.",
            remedy="Give each disk its own number from 0 to 65534.",
        )
    for disk in description.disks:
        if disk.size <= 0 or disk.size % 512:
            raise Malformed(
                f"Disk {disk.name} has {disk.size} bytes.", remedy="The size of a disk must be a multiple of 512."
            )


def _tell(
    tx: Transaction, row: MachineRow, kind: str, message: str, now: int, severity: Severity = Severity.INFORMATION
) -> None:
    actor = subject = f"machine/{row.id}"
    events.record(tx, time=now, kind=kind, actor=actor, subject=subject, message=message, severity=severity)
