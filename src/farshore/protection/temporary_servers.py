"""A process server that was made beside a recovered machine: for that machine alone, and as long as it is replicated
from there. Recovery makes the server itself (farshore.recovery.steps.process_server); here is what the catalog knows.

Its row remembers what its machine had before, and goes last, once nothing of the server is left at its site.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

from farshore.api_types.servers import ServerAddition
from farshore.catalog import epochs, events, machines, process_servers, tokens
from farshore.catalog.database import Transaction
from farshore.catalog.tables import MachineRow, ProcessServerRow, TokenRow
from farshore.protection import server_enrolment
from farshore.protection.assignment import is_healthy
from farshore.protection.enrolment import NewToken
from farshore.protection.moving import send_to

_ACTOR = "server"


@dataclass(frozen=True)
class Temporary:
    """``failover``: beside whose machine it is, at ``site``. ``used``: that machine was sent to it; ``server`` and
    ``chosen`` are what it had before. ``cancelled``: somebody asked for its end before that."""

    failover: str
    site: str
    used: bool = False
    server: str = ""
    chosen: str = ""
    cancelled: bool = False


def temporary(row: ProcessServerRow | None) -> Temporary | None:
    """Return what is known of a temporary server; None for any other, and for no server."""
    return Temporary(**row.temporary) if row is not None and row.temporary else None


def of_failover(tx: Transaction, failover: str) -> ProcessServerRow | None:
    """Return the one beside the failover's machine, if there is one."""
    return next((row for row in process_servers.every(tx) if (row.temporary or {}).get("failover") == failover), None)


def ensure(
    tx: Transaction, wanted: Temporary, url: str, name: str, now: int, own_names: Sequence[str]
) -> ProcessServerRow:
    """Return the server's row, created if necessary, with ``url`` as its address. Raises as an invitation does."""
    row = of_failover(tx, wanted.failover)
    if row is None:
        request = ServerAddition(url=url, name=name)
        row, _ = server_enrolment.invite(tx, request, _ACTOR, now, own_names)
        tokens.drop_of_server(tx, row.id)  # each launch has its own
        row.temporary = asdict(wanted)
    elif row.url != url:  # its card was made anew: the certificate is for another address
        _drop_enrolment(tx, row, now)
        row.url, row.host_names = url, [server_enrolment.host_of(url)]
    row.draining = False
    tx.flush()
    return row


def may_enrol_with(tx: Transaction, row: ProcessServerRow, token: str, now: int) -> bool:
    """Return whether a server with this token (an id) has enrolled with it, or still can."""
    found = tx.get(TokenRow, token)
    return found is not None and found.process_server == row.id and (bool(found.used) or found.expires > now)


def renew_token(tx: Transaction, row: ProcessServerRow, now: int, valid_seconds: int) -> NewToken:
    """Return the one token with which it may enrol from now on. It is for another machine than before, if there was
    one: what enrolled before opens nothing any more, and is not taken for the new one."""
    _drop_enrolment(tx, row, now)
    return server_enrolment.token_for(tx, row, _ACTOR, now, valid_seconds)


def _drop_enrolment(tx: Transaction, row: ProcessServerRow, now: int) -> None:
    server_enrolment.withdraw(tx, row, now)
    row.registered = row.last_seen = 0


def cancel(row: ProcessServerRow) -> None:
    """Record that its creation is to end."""
    row.temporary = {**row.temporary, "cancelled": True}


def turn_to(tx: Transaction, row: ProcessServerRow, machine: MachineRow, now: int) -> None:
    """Make the machine send to this server. An open stream is handed over, as after an operator's choice."""
    known = temporary(row)
    assert known is not None
    if not known.used:
        known = replace(known, used=True, server=machine.process_server or "", chosen=machine.chosen_server or "")
        row.temporary = asdict(known)
    machine.chosen_server = row.id
    newest = epochs.newest(tx, machine.id)
    if machine.process_server != row.id and (newest is None or newest.closed):
        send_to(tx, machine, row, f"it was made for it at {known.site}", now)


def successor(tx: Transaction, row: ProcessServerRow, now: int) -> ProcessServerRow | None:
    """Return the process server for its machine after it is removed: the former one if that is healthy, else another;
    None if there is none."""
    known = temporary(row)
    others = [one for one in process_servers.every(tx) if not one.temporary]
    former = next((one for one in others if known is not None and one.id == known.server), None)
    well = [one for one in others if is_healthy(one, now) and not one.draining]
    if former is not None and (former in well or not well):
        return former
    return next(iter(well or others), None)


def turn_away(tx: Transaction, row: ProcessServerRow, now: int) -> None:
    """Make its machine send to another server, and assign no other machine to it. Repeating it changes nothing."""
    known, target = temporary(row), successor(tx, row, now)
    row.draining = True
    for machine in machines.related_to(tx, row.id):
        if machine.chosen_server == row.id:
            chosen = known.chosen if known is not None else ""
            machine.chosen_server = chosen if process_servers.find(tx, chosen) is not None else ""
        if machine.moving_to == row.id:
            machine.moving_to = ""
        if machine.process_server == row.id and target is not None:
            send_to(tx, machine, target, f"the temporary process server {row.name} ends", now)
        elif machine.process_server == row.id:
            machine.process_server = None


def forget(tx: Transaction, row: ProcessServerRow, now: int) -> None:
    """Drop its row; its certificates and tokens open nothing. No machine is left with it, not even one that was sent to
    it since ``turn_away``, which comes first."""
    turn_away(tx, row, now)
    server_enrolment.withdraw(tx, row, now)
    name = row.name
    subject = f"{server_enrolment.KIND}/{row.id}"
    process_servers.delete(tx, row)
    message = f"The temporary process server {name} was removed."
    events.record(tx, time=now, kind="process-server.removed", actor=_ACTOR, subject=subject, message=message)
