"""The witness: a row is committed every 100 ms, and each acknowledgement is recorded with its time outside the guest.

After a failover the record and the table together show what was lost: ``judge`` returns the real RPO and whether a row
is missing in the middle. This process keeps the record, on the host, so the guest's death cannot affect it.
"""

from __future__ import annotations

import asyncio
import json
import logging
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Sequence, TextIO

import asyncpg

from farshore.model.errors import Unreachable

log = logging.getLogger(__name__)

PERIOD = 0.1
_FAILURES = (OSError, asyncio.TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError)
_INSERT = "INSERT INTO counter (n, at) VALUES ($1, clock_timestamp())"


@dataclass(frozen=True)
class Acknowledged:
    """Row ``number`` was committed, and the host knew it at ``time`` (nanoseconds since 1970 UTC)."""

    number: int
    time: int


@dataclass(frozen=True)
class Verdict:
    """The content of a recovered table, compared with the record."""

    acknowledged: int
    """Rows in the record."""
    recovered: int
    """Rows of the table up to its highest number."""
    holes: tuple[int, ...]
    """Recorded numbers below the table's highest that the table lacks. Any such number means corruption."""
    lost: int
    """Recorded rows above the table's highest."""
    rpo: float
    """Seconds from the acknowledgement of the newest recovered row to that of the newest recorded one."""


@dataclass(frozen=True)
class Database:
    """Address of a PostgreSQL in the lab's guest."""

    port: int
    password: str
    host: str = "127.0.0.1"
    user: str = "demo"
    name: str = "demo"


class Counter:
    """Commits a row each ``PERIOD`` until it is stopped or the database no longer answers. A context manager."""

    def __init__(self, database: Database, record: Path) -> None:
        self._database = database
        self._record = record
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._work, name="lab-counter", daemon=True)
        self._acknowledged: list[Acknowledged] = []
        self._first = threading.Event()
        self._failure: BaseException | None = None

    def __enter__(self) -> Counter:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    def start(self, seconds: float = 60.0) -> None:
        """Begin, and wait for the first commit. Raises Unreachable if there is none within ``seconds``."""
        self._thread.start()
        if not self._first.wait(seconds):
            self.stop()
            raise Unreachable(
                f"The counter could not commit a row: {self._failure!r}.", remedy="Read PostgreSQL's log in the guest."
            )

    def stop(self) -> None:
        """End after the current row."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()

    def acknowledged(self) -> tuple[Acknowledged, ...]:
        """The record so far, in order."""
        return tuple(self._acknowledged)

    def _work(self) -> None:
        asyncio.run(self._count())

    async def _count(self) -> None:
        number = None
        with self._record.open("a", encoding="ascii") as record:
            while not self._stopping.is_set():
                try:
                    connection = await _connect(self._database)
                    try:
                        # A row whose acknowledgement was lost may exist or not: continue after the newest row.
                        highest = await connection.fetchval("SELECT max(n) FROM counter", timeout=30)
                        number = (highest or 0) + 1
                        await self._commit_rows(connection, number, record)
                    finally:
                        connection.terminate()
                except _FAILURES as error:
                    self._failure = error
                    log.debug("the counter lost its connection: %r", error)
                    await asyncio.sleep(0.2)

    async def _commit_rows(self, connection: asyncpg.Connection, number: int, record: TextIO) -> None:
        due = time.monotonic()
        while not self._stopping.is_set():
            await connection.execute(_INSERT, number, timeout=30)
            seen = Acknowledged(number, time.time_ns())
            self._acknowledged.append(seen)
            record.write(json.dumps([seen.number, seen.time]) + "\n")
            record.flush()
            self._first.set()
            number += 1
            # A slow commit delays the next rows; it does not make them come in a burst.
            due = max(due + PERIOD, time.monotonic())
            await asyncio.sleep(due - time.monotonic())


def judge(acknowledged: Sequence[Acknowledged], found: Sequence[int]) -> Verdict:
    """Compare the record (in order) with the numbers ``found`` in a recovered table (any order)."""
    highest = max(found, default=0)
    present = set(found)
    kept = [row for row in acknowledged if row.number <= highest]
    lost = [row for row in acknowledged if row.number > highest]
    holes = tuple(row.number for row in kept if row.number not in present)
    begin = kept[-1].time if kept else (acknowledged[0].time if acknowledged else 0)
    rpo = (lost[-1].time - begin) / 1e9 if lost else 0.0
    return Verdict(len(acknowledged), len(present), holes, len(lost), rpo)


def rows(database: Database) -> list[int]:
    """Return the counter's numbers in ``database``, in order. Raises Unreachable if it does not answer."""
    return asyncio.run(_rows(database))


async def _rows(database: Database) -> list[int]:
    try:
        connection = await _connect(database)
        try:
            return [row["n"] for row in await connection.fetch("SELECT n FROM counter ORDER BY n", timeout=60)]
        finally:
            connection.terminate()
    except _FAILURES as error:
        raise Unreachable(f"PostgreSQL does not answer on port {database.port}: {error!r}.", remedy="Wait.") from error


def newest_by_its_own_clock(database: Database) -> float:
    """Return when the newest row was made, by the machine's clock, in seconds since 1970 UTC. Raises Unreachable."""
    return asyncio.run(_newest(database))


async def _newest(database: Database) -> float:
    try:
        connection = await _connect(database)
        try:
            return float(await connection.fetchval("SELECT extract(epoch FROM max(at)) FROM counter", timeout=60))
        finally:
            connection.terminate()
    except _FAILURES as error:
        raise Unreachable(f"PostgreSQL does not answer on port {database.port}: {error!r}.", remedy="Wait.") from error


async def _connect(database: Database) -> asyncpg.Connection:
    return await asyncpg.connect(
        host=database.host,
        port=database.port,
        user=database.user,
        password=database.password,
        database=database.name,
        timeout=20,
        ssl=False,
    )
