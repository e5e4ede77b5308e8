"""Opens the catalog and hands out transactions.

In: a database URL (SQLite by default, PostgreSQL for several servers). Out: ``Catalog.reading`` and
``Catalog.writing``. Relies on: a write transaction taking SQLite's write lock when it *begins*, so that what it read
cannot have changed by the time it writes: on PostgreSQL serializable isolation gives the same. Fencing rests on it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import IntegrityError, OperationalError
from sqlalchemy.orm import Session

from farshore.model.errors import Malformed, TryLater, WrongState

Transaction = Session
"""What every query takes. It ends with the ``with`` block that gave it."""

BUSY_SECONDS = 10
WRITING = "farshore_writing"


class Catalog:
    """One catalog. Safe to use from several threads; a transaction belongs to one."""

    def __init__(self, url: str) -> None:
        self.engine = open_engine(url)

    @contextmanager
    def reading(self) -> Iterator[Transaction]:
        """A consistent view; changes made in it are dropped."""
        with _translated(), Session(self.engine, expire_on_commit=False) as session:
            yield session

    @contextmanager
    def writing(self) -> Iterator[Transaction]:
        """All or nothing, one writer at a time. Raises TryLater where the lock was not to be had, or was lost."""
        with _translated(), Session(self.engine, expire_on_commit=False) as session, session.begin():
            session.connection(execution_options=_write_options(self.engine))
            yield session

    def close(self) -> None:
        """Close the idle connections."""
        self.engine.dispose()


def open_engine(url: str) -> Engine:
    """An engine with our settings; it connects when it is used first."""
    if not url.startswith("sqlite"):
        return create_engine(url, pool_pre_ping=True)
    engine = create_engine(url, connect_args={"timeout": BUSY_SECONDS, "check_same_thread": False})
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _write_options(engine: Engine) -> dict[str, Any]:
    if engine.dialect.name == "sqlite":
        return {WRITING: True}
    return {WRITING: True, "isolation_level": "SERIALIZABLE"}


def _prepare_sqlite(connection: DBAPIConnection, _record: object) -> None:
    # None: the driver begins nothing by itself, _begin_sqlite does.
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode = WAL")
    cursor.execute("PRAGMA synchronous = FULL")
    cursor.execute("PRAGMA foreign_keys = ON")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    writing = connection.get_execution_options().get(WRITING, False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writing else "BEGIN")


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except OperationalError as error:
        raise TryLater(
            f"The catalog did not answer ({error.orig}).",
            remedy="Repeat the call; if it recurs, check the database and the room on its disk.",
            after=1,
        ) from error
    except (OverflowError, UnicodeEncodeError) as error:
        raise Malformed(
            "A number or text is beyond what the catalog can hold.", remedy="Give a smaller number, or plain text."
        ) from error
    except IntegrityError as error:
        raise WrongState(
            f"Another change came first, or something still depends on this ({error.orig}).",
            remedy="Look at the present state, then decide again.",
        ) from error
