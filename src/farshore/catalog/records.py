"""What only the catalog holds, as records that can be stored elsewhere, and the way back from records to a catalog.

A record is a JSON object: the columns of a row, bytes in hex. A kind is a table, or a part of its columns: values that
reports and heartbeats refresh every few seconds, and values that the vault itself contains, are omitted. A new kind is
one line in ``KINDS``. Columns that this release does not know are ignored; missing ones get their defaults.

A kind that grows with the number of machines is divided by the values of one column, in most kinds the machine. So one
change costs the same with many machines as with few.

In: transactions that change rows. Out: subjects of the topic RECORDS, which say what a commit of this process changed:
``KIND``, or ``KIND/VALUE`` if the value of that column is known.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from sqlalchemy import (
    BinaryExpression,
    BindParameter,
    BooleanClauseList,
    Column,
    LargeBinary,
    Select,
    event,
    inspect,
    select,
)
from sqlalchemy.orm import ORMExecuteState, Session
from sqlalchemy.sql import operators

from farshore.catalog.database import Transaction, portions, say
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
    MasterTargetRow,
    PolicyRow,
    ProcessServerRow,
    PushAccountRow,
    SiteRow,
    UserRow,
    VmwareServerRow,
)

RECORDS = "records"
"""Topic: the kinds of records that a transaction changed."""
AUDIT = "audit"
"""Of the audit log only its head is stored: the number, the time and the digest of its last entry."""
Record = dict[str, Any]


@dataclass(frozen=True)
class _Kind:
    """``by``: the column whose values divide the rows; empty if the kind is not divided."""

    table: type[Base]
    without: frozenset[str] = frozenset()
    by: str = ""

    @cached_property
    def columns(self) -> list[str]:
        return [column.key for column in inspect(self.table).column_attrs if column.key not in self.without]

    @cached_property
    def names(self) -> frozenset[str]:
        return frozenset(self.columns)


_REPORTED_BY_SERVERS = frozenset(
    {"version", "last_seen", "spool_bytes", "spool_limit", "spool_trouble", "store_trouble", "store_trouble_since"}
    | {"clock", "requests", "requests_seconds", "overstepped", "overstepped_with"}
)
_REPORTED_BY_MACHINES = frozenset(
    {"heartbeat", "last_seen", "newest_point_time", "last_app_consistent", "lag"}
    | {"stream_trouble", "clock_behind", "clock_stepped", "notable"}
)
_REPORTED_BY_DISCOVERY = frozenset({"product", "state", "since", "seen", "trouble", "remedy"})
_NEWEST_EPOCHS = 4
"""Of each machine: a process server may still hold something of these epochs. The vault contains all that are
complete."""
_REPORTED_OF_STREAMS = frozenset(["received", "stored", "written", "stored_time", "reported", "consistent_time"])
KINDS: Mapping[str, _Kind] = {
    # In an order in which each comes after those that its rows refer to.
    "policies": _Kind(PolicyRow),
    "users": _Kind(UserRow),
    "certificates": _Kind(CertificateRow, by="subject"),
    "process-servers": _Kind(ProcessServerRow, _REPORTED_BY_SERVERS),
    "master-targets": _Kind(MasterTargetRow, frozenset({"version", "last_seen", "host"})),
    "host-keys": _Kind(HostKeyRow, by="host"),
    "sites": _Kind(SiteRow),
    "machines": _Kind(MachineRow, _REPORTED_BY_MACHINES, "id"),
    "epochs": _Kind(EpochRow, _REPORTED_OF_STREAMS, "machine"),
    "key-grants": _Kind(KeyGrantRow, by="machine"),
    "alert-channels": _Kind(AlertChannelRow, frozenset({"claimed", "delivered", "trouble", "trouble_since"})),
    "push-accounts": _Kind(PushAccountRow),
    "vmware-servers": _Kind(VmwareServerRow, _REPORTED_BY_DISCOVERY),
    "failovers": _Kind(FailoverRow, frozenset({"condition", "condition_since"}), "machine"),
}
_BY_TABLE = {kind.table: name for name, kind in KINDS.items()}
_GO_WITH = {MachineRow: ("epochs", "failovers")}
"""Rows that the database deletes with others, without notice."""


def is_divided(kind: str) -> bool:
    """Return whether a column divides this kind. Only then ``values`` and ``read_of`` work."""
    return kind in KINDS and bool(KINDS[kind].by)


def values(tx: Transaction, kind: str) -> set[str]:
    """Return every value of the column that divides the kind."""
    return set(tx.scalars(select(getattr(KINDS[kind].table, KINDS[kind].by)).distinct()))


def read(tx: Transaction, kind: str) -> list[Record]:
    """Return all records of a kind, in the order of their keys."""
    if kind == AUDIT:
        last = tx.execute(select(AuditRow.id, AuditRow.time, AuditRow.digest).order_by(AuditRow.id.desc())).first()
        return [] if last is None else [{"id": last[0], "time": last[1], "digest": last[2]}]
    return _records(tx, kind, _wanted(kind))


def read_of(tx: Transaction, kind: str, wanted: Collection[str]) -> list[Record]:
    """Return the records of a kind that have one of these values, ordered by value, then by key."""
    column = getattr(KINDS[kind].table, KINDS[kind].by)
    found: list[Record] = []
    for some in portions(sorted(wanted)):
        found += _records(tx, kind, _wanted(kind).where(column.in_(some)))
    return sorted(found, key=lambda record: str(record[KINDS[kind].by]))


def _wanted(kind: str) -> Select[Any]:
    table, columns = KINDS[kind].table, KINDS[kind].columns
    wanted = select(*(getattr(table, name) for name in columns)).order_by(*inspect(table).primary_key)
    if table is EpochRow:
        wanted = wanted.join(MachineRow, MachineRow.id == EpochRow.machine)
        wanted = wanted.where(EpochRow.epoch > MachineRow.epoch - _NEWEST_EPOCHS)
    return wanted


def _records(tx: Transaction, kind: str, wanted: Select[Any]) -> list[Record]:
    columns = KINDS[kind].columns
    found = [{name: _plain(value) for name, value in zip(columns, row, strict=True)} for row in tx.execute(wanted)]
    for record in found if kind == "epochs" else ():
        if record["closed"]:
            record["description"] = {}  # the vault contains it
    return found


def put(tx: Transaction, kind: str, records: Iterable[Record]) -> int:
    """Insert records as rows, replacing those with the same keys; return how many."""
    table, columns = KINDS[kind].table, set(KINDS[kind].columns)
    binary = {column.key for column in inspect(table).columns if isinstance(column.type, LargeBinary)}
    found = list(records)
    for record in found:
        fields = {name: value for name, value in record.items() if name in columns}
        tx.merge(table(**{name: bytes.fromhex(fields[name]) if name in binary else fields[name] for name in fields}))
    tx.flush()
    return len(found)


def key_of(kind: str, record: Record) -> tuple[Any, ...]:
    """Return the key that distinguishes a record from others of its kind."""
    return tuple(record.get(name) for name in _key_columns(kind))


def forget_others(tx: Transaction, kind: str, records: Iterable[Record]) -> None:
    """Delete the rows of a kind that are not among these."""
    table = KINDS[kind].table
    names = _key_columns(kind)
    wanted = {key_of(kind, record) for record in records}
    for row in tx.scalars(select(table)).all():
        if tuple(getattr(row, name) for name in names) not in wanted:
            tx.delete(row)
    tx.flush()


def _key_columns(kind: str) -> list[str]:
    return [str(column.key) for column in inspect(KINDS[kind].table).primary_key]


def _plain(value: Any) -> Any:
    return value.hex() if isinstance(value, bytes) else value


def _note_flushed(session: Session, _context: object) -> None:
    # The session's sets are read once: each access makes a new set of all its rows.
    for row in session.new:
        _say_changed(session, row)
    for row in session.deleted:
        _say_changed(session, row, *_GO_WITH.get(type(row), ()))
    for row in session.dirty:
        name = _BY_TABLE.get(type(row))
        if name is None or _differs(row, KINDS[name]):
            _say_changed(session, row)


def _say_changed(session: Session, row: Any, *others: str) -> None:
    """Publish that a row's record changed, and the ``others`` with the same value."""
    name = _BY_TABLE.get(type(row))
    if isinstance(row, AuditRow):
        say(session, RECORDS, AUDIT)
    elif name is not None:
        value = getattr(row, KINDS[name].by) if KINDS[name].by else ""
        for kind in (name, *others):
            say(session, RECORDS, _subject(kind, value))


def _subject(kind: str, value: str) -> str:
    return f"{kind}/{value}" if value else kind


def _differs(row: object, kind: _Kind) -> bool:
    state = inspect(row)
    changed = kind.names & state.committed_state.keys()  # reports change others, many times a second
    return any(state.attrs[name].history.has_changes() for name in changed)


def _note_executed(state: ORMExecuteState) -> None:
    """Publish changes by statements that do not load rows."""
    if state.is_select or state.bind_mapper is None:
        return
    name = _BY_TABLE.get(state.bind_mapper.class_)
    if name is not None:
        say(state.session, RECORDS, _subject(name, _asked_of(state, KINDS[name])))


def _asked_of(state: ORMExecuteState, kind: _Kind) -> str:
    """Return the one value for which a statement changes rows; "" if that is not obvious from it."""
    where = getattr(state.statement, "whereclause", None)
    parts: Iterable[Any] = (where,)
    if isinstance(where, BooleanClauseList) and where.operator is operators.and_:
        parts = where.clauses
    for part in parts:
        if isinstance(part, BinaryExpression) and part.operator is operators.eq:
            left, right = part.left, part.right
            if isinstance(left, Column) and left.key == kind.by and isinstance(right, BindParameter):
                return str(right.value)
    return ""


def listen() -> None:
    """Make every commit in this process publish what it changed. One call is enough."""
    if not event.contains(Session, "after_flush", _note_flushed):
        event.listen(Session, "after_flush", _note_flushed)
        event.listen(Session, "do_orm_execute", _note_executed)
