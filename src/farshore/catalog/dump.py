"""Dump the whole catalog as plain rows, for a backup, and load such a dump: for SQLite and PostgreSQL alike.

Out: tables in an order in which each comes after those that its rows refer to, each row as a JSON array, bytes in hex.
A dump has one schema; it is loaded into an empty database of that schema, which is then upgraded to the present one. So
a backup of an older release can be restored.

Some rows must not return and are omitted: enrolment tokens (a token that was used since would be valid again), commands
to agents, pushes and errands (they would be carried out again), the secrets of jobs, which are not in a backup, and
what discovery found at VMware servers, which it finds again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from sqlalchemy import Connection, Engine, Integer, LargeBinary, MetaData, Table, delete, func, inspect, select, text
from sqlalchemy.exc import SQLAlchemyError

from farshore.catalog.database import WRITING, Transaction
from farshore.catalog.tables import AuditRow, Base
from farshore.catalog.upgrade import downgrade, schema_of, upgrade
from farshore.model.errors import Damaged

LEFT_OUT = frozenset(
    {"enrolment_tokens", "commands", "secrets", "pushes", "errands", "vmware_machines", "vmware_places"}
)
_TOGETHER = 500
"""Rows that are read or written at once."""

Piece = tuple[str, Sequence[str], list[list[Any]]]
"""A table, its columns, and some of its rows."""


def dump(tx: Transaction) -> Iterator[Piece]:
    """Yield all rows, of one moment. A table without rows has an entry without any."""
    for table in Base.metadata.sorted_tables:
        if table.name not in LEFT_OUT:
            columns = [column.name for column in table.columns]
            yield table.name, columns, []
            found = tx.execute(select(table).order_by(*table.primary_key).execution_options(yield_per=_TOGETHER))
            for portion in found.partitions():
                yield table.name, columns, [[_plain(value) for value in row] for row in portion]


def schema(tx: Transaction) -> str:
    """Return the schema of the catalog; empty if there is none."""
    return schema_of(tx.connection())


def load(engine: Engine, of_schema: str, pieces: Iterator[Piece]) -> None:
    """Fill a database whose content may be deleted, completely or not at all, and upgrade it to the present schema.
    Raises Unsupported for the dump of a newer release, Damaged if the rows do not have that schema."""
    _empty(engine)
    upgrade(engine, of_schema)
    known = MetaData()
    with engine.connect().execution_options(**{WRITING: True}) as connection, connection.begin():
        known.reflect(connection)
        for table in reversed(known.sorted_tables):
            if table.name != "alembic_version" and connection.scalar(select(func.count()).select_from(table)):
                connection.execute(table.delete())  # what a migration had inserted
        try:
            for name, columns, rows in pieces:
                _insert(connection, known.tables[name], columns, rows)
        except (SQLAlchemyError, KeyError, TypeError, ValueError) as cause:
            raise Damaged(
                f"The backup's rows do not fit its schema {of_schema}.", remedy="Use another backup."
            ) from cause
        for table in known.sorted_tables:
            _go_on_numbering(connection, table)
    upgrade(engine)


def _empty(engine: Engine) -> None:
    """Delete the rows first, because tables to which others refer are not dropped; the audit log's rows are deleted
    with its table only."""
    with engine.connect().execution_options(**{WRITING: True}) as connection, connection.begin():
        there = set(inspect(connection).get_table_names())
        for table in reversed(Base.metadata.sorted_tables):
            if table.name in there and table.name != AuditRow.__tablename__:
                connection.execute(delete(table))
    downgrade(engine, "base")


def _insert(connection: Connection, table: Table, columns: Sequence[str], rows: list[list[Any]]) -> None:
    binary = {column.name for column in table.columns if isinstance(column.type, LargeBinary)}
    if rows:
        connection.execute(
            table.insert(),
            [
                {
                    name: bytes.fromhex(value) if name in binary and value is not None else value
                    for name, value in zip(columns, row, strict=True)
                }
                for row in rows
            ],
        )


def _go_on_numbering(connection: Connection, table: Table) -> None:
    """Continue the numbering: PostgreSQL counts separately from the rows; SQLite looks at them."""
    key = list(table.primary_key)
    if connection.dialect.name != "postgresql" or len(key) != 1 or not isinstance(key[0].type, Integer):
        return
    sequence = connection.scalar(
        text("SELECT pg_get_serial_sequence(:table, :column)"), {"table": table.name, "column": key[0].name}
    )
    last = connection.scalar(select(func.max(key[0])))
    if sequence and last is not None:
        connection.execute(text("SELECT setval(:sequence, :last)"), {"sequence": sequence, "last": last})


def _plain(value: Any) -> Any:
    return value.hex() if isinstance(value, bytes) else value
