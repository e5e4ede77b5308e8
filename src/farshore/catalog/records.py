"""What only the catalog holds, as records that can be kept elsewhere, and a catalog made of such records.

A record is a JSON object: the columns of a row, bytes in hex. A kind is a table, or a part of its columns: what reports
and heartbeats bring anew every few seconds, and what the vault tells by itself, is left out. A new kind is one line in
``KINDS``. Columns that this release does not know are passed over, those that a record lacks take their defaults.

In: transactions that change rows. Out: subjects of the topic RECORDS, the kinds that a commit of this process changed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import LargeBinary, event, inspect, select
from sqlalchemy.orm import ORMExecuteState, Session

from farshore.catalog.database import Transaction, say
from farshore.catalog.tables import (
    AlertChannelRow,
    AuditRow,
    Base,
    CertificateRow,
    EpochRow,
    FailoverRow,
    HostKeyRow,
    KeyGrantRow,
    MachineRow,
    PolicyRow,
    ProcessServerRow,
    PushAccountRow,
    SiteRow,
    UserRow,
)

RECORDS = "records"
"""Topic: the kinds of records that a transaction changed."""
AUDIT = "audit"
"""Of the audit log only its head is kept: the number, the time and the digest of its last entry."""
Record = dict[str, Any]


@dataclass(frozen=True)
class _Kind:
    table: type[Base]
    without: frozenset[str] = frozenset()

    @property
    def columns(self) -> list[str]:
        return [column.key for column in inspect(self.table).column_attrs if column.key not in self.without]


_REPORTED_BY_SERVERS = frozenset(
    {"version", "last_seen", "spool_bytes", "spool_limit", "spool_trouble", "store_trouble", "store_trouble_since"}
    | {"clock", "requests", "requests_seconds", "overstepped", "overstepped_with"}
)
_REPORTED_BY_MACHINES = frozenset(
    {"heartbeat", "last_seen", "newest_point_time", "last_app_consistent", "lag"}
    | {"stream_trouble", "clock_behind", "clock_stepped", "notable"}
)
_NEWEST_EPOCHS = 4
"""Of each machine: a process server may still hold something of them. The vault tells of all that are complete."""
_REPORTED_OF_STREAMS = frozenset(["received", "stored", "written", "stored_time", "reported", "consistent_time"])
KINDS: Mapping[str, _Kind] = {
    # In an order in which each stands behind what its rows refer to.
    "policies": _Kind(PolicyRow),
    "users": _Kind(UserRow),
    "certificates": _Kind(CertificateRow),
    "process-servers": _Kind(ProcessServerRow, _REPORTED_BY_SERVERS),
    "host-keys": _Kind(HostKeyRow),
    "sites": _Kind(SiteRow),
    "machines": _Kind(MachineRow, _REPORTED_BY_MACHINES),
    "epochs": _Kind(EpochRow, _REPORTED_OF_STREAMS),
    "key-grants": _Kind(KeyGrantRow),
    "alert-channels": _Kind(AlertChannelRow, frozenset({"claimed", "delivered", "trouble", "trouble_since"})),
    "push-accounts": _Kind(PushAccountRow),
    "failovers": _Kind(FailoverRow, frozenset({"condition", "condition_since"})),
}
_BY_TABLE = {kind.table: name for name, kind in KINDS.items()}
_GO_WITH = {MachineRow: ("epochs", "failovers")}
"""Rows that the database deletes with others, without a word."""


def read(tx: Transaction, kind: str) -> list[Record]:
    """All records of a kind, in the order of their keys."""
    if kind == AUDIT:
        last = tx.execute(select(AuditRow.id, AuditRow.time, AuditRow.digest).order_by(AuditRow.id.desc())).first()
        return [] if last is None else [{"id": last[0], "time": last[1], "digest": last[2]}]
    table, columns = KINDS[kind].table, KINDS[kind].columns
    wanted = select(*(getattr(table, name) for name in columns)).order_by(*inspect(table).primary_key)
    if table is EpochRow:
        wanted = wanted.join(MachineRow, MachineRow.id == EpochRow.machine)
        wanted = wanted.where(EpochRow.epoch > MachineRow.epoch - _NEWEST_EPOCHS)
    found = [
        {name: _plain(value) for name, value in zip(columns, row, strict=True)} for row in tx.execute(wanted).all()
    ]
    for record in found if table is EpochRow else ():
        if record["closed"]:
            record["description"] = {}  # the vault has it
    return found


def put(tx: Transaction, kind: str, records: Iterable[Record]) -> int:
    """Make rows of records, in the place of those with the same keys; answer how many."""
    table, columns = KINDS[kind].table, set(KINDS[kind].columns)
    binary = {column.key for column in inspect(table).columns if isinstance(column.type, LargeBinary)}
    found = list(records)
    for record in found:
        fields = {name: value for name, value in record.items() if name in columns}
        tx.merge(table(**{name: bytes.fromhex(fields[name]) if name in binary else fields[name] for name in fields}))
    tx.flush()
    return len(found)


def _plain(value: Any) -> Any:
    return value.hex() if isinstance(value, bytes) else value


def _note_flushed(session: Session, _context: object) -> None:
    for row in (*session.new, *session.deleted, *session.dirty):
        name = _BY_TABLE.get(type(row))
        if isinstance(row, AuditRow):
            say(session, RECORDS, AUDIT)
        elif name is not None and (row not in session.dirty or _differs(row, KINDS[name])):
            say(session, RECORDS, name)
            for other in _GO_WITH.get(type(row), ()) if row in session.deleted else ():
                say(session, RECORDS, other)


def _differs(row: object, kind: _Kind) -> bool:
    state = inspect(row)
    return any(state.attrs[name].history.has_changes() for name in kind.columns)


def _note_executed(state: ORMExecuteState) -> None:
    """Statements that change rows without loading them."""
    if state.is_select or state.bind_mapper is None:
        return
    name = _BY_TABLE.get(state.bind_mapper.class_)
    if name is not None:
        say(state.session, RECORDS, name)


def listen() -> None:
    """Have every commit in this process say which kinds it changed. Once is enough."""
    if not event.contains(Session, "after_flush", _note_flushed):
        event.listen(Session, "after_flush", _note_flushed)
        event.listen(Session, "do_orm_execute", _note_executed)
