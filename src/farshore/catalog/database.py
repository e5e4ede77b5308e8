"""Open the catalog and provide transactions.

In: a database URL (SQLite by default, PostgreSQL for several servers). Out: ``Catalog.reading``, ``Catalog.write`` and
``Catalog.writing``. Relies on: a write transaction takes SQLite's write lock when it *begins*, so what it read cannot
have changed by the time it writes; on PostgreSQL serializable isolation guarantees the same. Fencing depends on it.

Serializable isolation has a price: of two transactions that read what the other writes the database ends one, often at
its commit, and the caller must repeat it. ``write`` does that; farshore.catalog.conflicts says for which errors.
"""

from __future__ import annotations

import random
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError
from sqlalchemy.orm import Session

from farshore.catalog.conflicts import is_conflict
from farshore.model.errors import Malformed, TryLater, WrongState

Transaction = Session
"""The argument of every query. It ends with the ``with`` block that created it."""

Written = TypeVar("Written")
Item = TypeVar("Item")
WRITING = "farshore_writing"
_TOGETHER = 400
"""Rows that one statement may select by one or two columns: SQLite allows 999 parameters."""
_SAID = "farshore_said"
Listener = Callable[[frozenset[str]], None]
"""Called with subjects, from the thread that committed. It must be quick and raise nothing."""


def say(tx: Transaction, topic: str, subject: str) -> None:
    """Publish ``subject`` to the listeners of ``topic`` in this process, when this transaction is committed."""
    tx.info.setdefault(_SAID, defaultdict(set))[topic].add(subject)


@dataclass(frozen=True)
class Patience:
    """How long ``Catalog.write`` tries. All times in seconds.

    ``busy``: how long SQLite waits for its write lock, in each attempt. ``tries``: maximum number of attempts; none is
    begun after ``most`` seconds. Before the second one it pauses for up to ``pause``, before each further one for up to
    twice as long: at random, so that colliding transactions do not collide again."""

    busy: float = 10.0
    tries: int = 10
    most: float = 20.0
    pause: float = 0.01


class Catalog:
    """One catalog. Safe to use from several threads; a transaction belongs to one."""

    def __init__(self, url: str, patience: Patience = Patience(), sleep: Callable[[float], None] = time.sleep) -> None:
        self.engine = open_engine(url, patience.busy)
        self._patience = patience
        self._sleep = sleep
        self._listeners: dict[str, list[Listener]] = defaultdict(list)

    @contextmanager
    def reading(self) -> Iterator[Transaction]:
        """Yield a consistent view; changes made in it are dropped."""
        with _translated(), Session(self.engine, expire_on_commit=False) as session:
            if self.engine.dialect.name != "sqlite":  # there a transaction sees one state anyway
                session.connection(execution_options={"isolation_level": "REPEATABLE READ"})
            yield session

    def write(self, function: Callable[[Transaction], Written]) -> Written:
        """Return the result of ``function`` in a write transaction, all or nothing, repeated if others interfered.

        It is called again for each attempt, so it may have effects only in the transaction: it must send nothing, write
        no file, and keep nothing from an earlier attempt. An exception in it ends the transaction and is raised. Only a
        transaction that the database certainly rolled back is repeated. After a connection that broke within the commit
        the result is unknown, which is a TryLater at once, as in ``writing``. Raises TryLater if others interfered each
        time."""
        began, attempt = time.monotonic(), 0
        with _translated():
            while True:
                attempt += 1
                try:
                    with self._transaction() as tx:
                        return function(tx)
                except DBAPIError as error:
                    if not is_conflict(error):
                        raise
                    if attempt >= self._patience.tries or time.monotonic() - began >= self._patience.most:
                        raise _beaten(attempt, error) from error
                self._sleep(random.uniform(0, self._patience.pause * 2 ** (attempt - 1)))

    @contextmanager
    def writing(self) -> Iterator[Transaction]:
        """Write as ``write`` does, for work that cannot be repeated. Raises TryLater if the lock was not available, or
        if another transaction interfered: on PostgreSQL that is common if several write at once."""
        with _translated(), self._transaction() as tx:
            yield tx

    @contextmanager
    def _transaction(self) -> Iterator[Transaction]:
        with Session(self.engine, expire_on_commit=False) as session:
            with session.begin():
                session.connection(execution_options=_write_options(self.engine))
                yield session
            # Only now: a woken listener must see the change.
            for topic, subjects in session.info.get(_SAID, {}).items():
                for listener in self._listeners[topic]:
                    listener(frozenset(subjects))

    def listen(self, topic: str, listener: Listener) -> None:
        """Call ``listener`` after each commit that published something on ``topic``, in this process only: commits of
        other processes are not seen. Call it before several threads use the catalog."""
        self._listeners[topic].append(listener)

    def close(self) -> None:
        """Close the idle connections."""
        self.engine.dispose()


def portions(items: Sequence[Item], columns: int = 2) -> Iterator[Sequence[Item]]:
    """Yield parts of ``items`` that fit into one statement, if it binds up to ``columns`` values for each item."""
    together = _TOGETHER * 2 // max(2, columns)
    for first in range(0, len(items), together):
        yield items[first : first + together]


def open_engine(url: str, busy_seconds: float = Patience.busy) -> Engine:
    """Return an engine with our settings; it connects when it is first used."""
    if not url.startswith("sqlite"):
        return create_engine(url, pool_pre_ping=True)
    engine = create_engine(url, connect_args={"timeout": busy_seconds, "check_same_thread": False})
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _write_options(engine: Engine) -> dict[str, Any]:
    if engine.dialect.name == "sqlite":
        return {WRITING: True}
    return {WRITING: True, "isolation_level": "SERIALIZABLE"}


def _prepare_sqlite(connection: DBAPIConnection, _record: object) -> None:
    # None: the driver does not begin transactions, _begin_sqlite does.
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode = WAL")
    cursor.execute("PRAGMA synchronous = FULL")
    cursor.execute("PRAGMA foreign_keys = ON")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    writing = connection.get_execution_options().get(WRITING, False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writing else "BEGIN")


def _beaten(attempts: int, error: DBAPIError) -> TryLater:
    said = str(error.orig).partition("\n")[0]
    return TryLater(
        f"Others changed the catalog at the same time, {attempts} times in a row ({said}).",
        remedy="Repeat the call. If it recurs, find the program that keeps writing to the database or holds "
        "a transaction open.",
        after=1,
    )


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except OperationalError as error:
        raise TryLater(
            f"The catalog did not answer ({error.orig}).",
            remedy="Repeat the call. If it recurs, check the database and the free space on its disk.",
            after=1,
        ) from error
    except (OverflowError, UnicodeEncodeError) as error:
        raise Malformed(
            "A number or text is too large for the catalog.", remedy="Give a smaller number or a shorter text."
        ) from error
    except IntegrityError as error:
        raise WrongState(
            f"The change conflicts with another one, or something still depends on this ({error.orig}).",
            remedy="Check the current state, then try again.",
        ) from error
