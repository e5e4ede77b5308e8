"""Enrol another process server: an operator invites it, and it exchanges its one-time token for an identity.

The operator says at which address agents will reach it, and its certificate is made for that host alone: a stolen token
cannot be used to impersonate another server.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from urllib.parse import urlsplit

from farshore.api_types.events import Severity
from farshore.api_types.servers import ServerAddition
from farshore.catalog import events, machines, process_servers, pushes, secrets, tokens, users
from farshore.catalog.change_details import Details, changed, fields_of, gone, made
from farshore.catalog.database import Transaction
from farshore.catalog.tables import ProcessServerRow, TokenRow
from farshore.model.errors import Forbidden, Malformed, Refused, Unauthenticated, WrongState
from farshore.model.identifiers import new_id
from farshore.model.policy import ReplicationPolicy
from farshore.protection.assignment import SILENT_AFTER
from farshore.protection.enrolment import NewToken, issue

KIND = "process-server"
_LONGEST_NAME = 253
_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_NAME = re.compile(rf"(?:{_LABEL}\.)*(?!(?:[0-9]+|0x[0-9a-f]*)$){_LABEL}")
"""A name whose last label is a number is read as an address."""


def invite(
    tx: Transaction, request: ServerAddition, creator: str, now: int, own_names: Sequence[str]
) -> tuple[ProcessServerRow, NewToken]:
    """Return its row and a token with which it may enrol. ``own_names``: of the configuration server.

    Raises WrongState if the name is taken, Malformed, Refused for a name of the configuration server, because the
    invited server's certificate would pass for it."""
    host = host_of(request.url)
    if host in {normal(name) for name in own_names}:
        raise Refused(
            f"{host} is a name of the configuration server itself.",
            remedy="Give the new process server a name or address of its own: https://ps2.example.com:9443.",
        )
    row = ProcessServerRow(id=new_id(), name=request.name or host, url=request.url, host_names=[host])
    process_servers.invite(tx, row)
    token = token_for(tx, row, creator, now, request.valid_seconds)
    message = f"Process server {row.name} was invited; agents will reach it at {row.url}."
    _tell(tx, row, "process-server.invited", creator, message, now, made(fields_of(row, ("name", "url"))))
    return row, token


def token_for(tx: Transaction, row: ProcessServerRow, creator: str, now: int, valid_seconds: int) -> NewToken:
    """Return a token with which the server of this row may enrol."""
    opens = TokenRow(name=row.name, policy=ReplicationPolicy().name, protect=False, process_server=row.id)
    return issue(tx, opens, creator, now, valid_seconds)


def check_url(row: ProcessServerRow | None, url: str, own_names: Sequence[str]) -> None:
    """Raise Forbidden if a process server names an address that its certificate does not cover."""
    names = (row.host_names if row is not None else []) or own_names
    host = host_of(url)
    if host not in {normal(name) for name in names}:
        raise Forbidden(
            f"{url} does not match the names in this process server's certificate ({', '.join(names)}).",
            remedy="Use the URL that it was added with, or add it again: farshore process-server add URL",
        )


_TOLD = ("name", "url", "draining", "bandwidth", "time_zone")


def host_of(url: str) -> str:
    """Return the host of a URL, in one spelling. Raises Malformed if it is not a name or address of exactly one host,
    or if the URL has more parts than a host and port."""
    try:
        parts = urlsplit(url)
        host, _ = normal(parts.hostname or ""), parts.port
    except ValueError:
        host = ""
    if not _is_host(host):
        raise Malformed(
            f"{url!r} has no valid host name or address.",
            remedy="Write it as https://ps2.example.com:9443.",
        )
    if parts.netloc.count("@") or parts.path.strip("/") or parts.query or parts.fragment:
        raise Malformed(
            f"{url!r} has more parts than a host and port.", remedy="Write it as https://ps2.example.com:9443."
        )
    return host


def _is_host(host: str) -> bool:
    """Return whether it names one host: a wildcard would also cover the configuration server, and ``127.1`` is another
    spelling of an address."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return len(host) <= _LONGEST_NAME and _NAME.fullmatch(host) is not None
    return True


def normal(name: str) -> str:
    """Return a host name or address in one spelling, so that two that mean the same are equal."""
    try:
        return ipaddress.ip_address(name.strip("[]")).compressed
    except ValueError:
        return name.lower().rstrip(".")


def enrol(tx: Transaction, token: str, now: int) -> ProcessServerRow:
    """Spend the token; the caller signs a certificate for ``host_names``. Raises Unauthenticated."""
    spent = tokens.spend(tx, token, now)
    if not spent.process_server:
        raise Unauthenticated(
            "This token is not for a process server.",
            remedy="Create one for a process server: farshore process-server add URL",
        )
    row = process_servers.get(tx, spent.process_server)
    users.revoke_certificates(tx, KIND, row.id, now)
    _tell(tx, row, "process-server.enrolled", f"{KIND}/{row.id}", f"Process server {row.name} has enrolled.", now)
    return row


def note_reuse(tx: Transaction, token: str, now: int) -> None:
    """Record that a process server's token was presented again: of two who had it, one is not the server that was
    invited. Limited in rate."""
    spent = tokens.spent(tx, token)
    row = process_servers.find(tx, spent.process_server) if spent is not None and spent.process_server else None
    if row is not None:
        events.record_some(
            tx,
            time=now,
            kind="process-server.token-reused",
            actor=f"{KIND}/{row.id}",
            subject=f"{KIND}/{row.id}",
            severity=Severity.ERROR,
            message=f"The token of process server {row.name} was used again. If its first use was not by this server: "
            f"farshore process-server revoke {row.name}",
        )


def remove(tx: Transaction, row: ProcessServerRow, actor: str, now: int, *, force: bool) -> None:
    """Delete a process server; its certificates open nothing from now on.

    Raises WrongState while machines send to it, or while its spool holds something (``force``: unless it is silent and
    its spool is given up), and for the one that ``farshore up`` runs."""
    if row.registered and not row.host_names:
        raise WrongState(
            f"{row.name} is run by `farshore up`.",
            remedy=f"Drain it, so that no machine sends to it: farshore process-server drain {row.name}",
        )
    senders = machines.count_by_server(tx).get(row.id, 0)
    if senders:
        raise WrongState(
            f"{senders} machines send to {row.name}.",
            remedy=f"Drain it first: farshore process-server drain {row.name}. This needs another healthy "
            "process server.",
        )
    silent = now - row.last_seen > SILENT_AFTER
    if row.registered and row.spool_bytes and not (force and silent):
        raise WrongState(
            f"The spool of {row.name} holds {row.spool_bytes >> 10} KiB that are not in the vault.",
            remedy="Wait until it is drained. If the server is lost, repeat the command with --force.",
        )
    withdraw(tx, row, now)
    details = gone(fields_of(row, _TOLD))
    process_servers.delete(tx, row)
    _tell(tx, row, "process-server.removed", actor, f"Process server {row.name} was removed.", now, details)


def revoke(tx: Transaction, row: ProcessServerRow, actor: str, now: int) -> None:
    """Revoke a process server: it receives no machines, and the watch moves its machines elsewhere in its next round.
    Data that only its spool held is missing, as after its death."""
    withdraw(tx, row, now)
    details = changed({"draining": row.draining}, {"draining": True})
    row.draining, row.last_seen = True, 0
    _tell(tx, row, "process-server.revoked", actor, f"Process server {row.name} was revoked.", now, details)


def withdraw(tx: Transaction, row: ProcessServerRow, now: int) -> None:
    """Let nothing that it has, or was given, open anything any more."""
    users.revoke_certificates(tx, KIND, row.id, now)
    tokens.drop_of_server(tx, row.id)
    _end_pushes(tx, row)


def _end_pushes(tx: Transaction, server: ProcessServerRow) -> None:
    """End its pushes: the secrets that it was given for them are no longer valid."""
    for push in pushes.open_of(tx, server.id):
        row = pushes.find(tx, push)
        if row is not None:
            secrets.drop(tx, row.secret)
            pushes.drop(tx, push)


def _tell(
    tx: Transaction,
    row: ProcessServerRow,
    kind: str,
    actor: str,
    message: str,
    now: int,
    details: Details | None = None,
) -> None:
    subject = f"{KIND}/{row.id}"
    events.record(tx, time=now, kind=kind, actor=actor, subject=subject, message=message, detail=details)
