"""Row n is committed to SQLite on one disk, then to PostgreSQL on the other, then comes row n + 1.

So every state of the machine has all rows up to some n in SQLite, and in PostgreSQL the same or one fewer: a hole, a
wrong word, or a database ahead of the other means that a write was lost, torn or reordered.
"""

from __future__ import annotations

import asyncio
import hashlib
import sqlite3
import threading
from pathlib import Path

import asyncpg
from tests.crash.fire.record import Record

NAME = "ledger.sqlite"


def word(number: int) -> str:
    """What row ``number`` says."""
    return hashlib.blake2b(str(number).encode(), digest_size=20).hexdigest() * (1 + number % 7)


class Ledger:
    """``folder`` holds the SQLite file, ``socket`` leads to PostgreSQL."""

    def __init__(self, folder: Path, socket: Path, *, pause: float = 0.02) -> None:
        self.sqlite, self.postgresql = Record("sqlite"), Record("postgresql")
        self.running = threading.Event()
        self.failure: BaseException | None = None
        self._path, self._socket, self._pause = folder / NAME, socket, pause
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, name="ledger", daemon=True)
        # The table is there before anything is protected, so it is there at every point.
        lite = sqlite3.connect(self._path, isolation_level=None)
        lite.execute("PRAGMA journal_mode=WAL")
        lite.execute("CREATE TABLE ledger (n INTEGER PRIMARY KEY, word TEXT NOT NULL)")
        lite.close()

    def start(self) -> None:
        """Begin to write."""
        self.running.set()
        self._thread.start()

    def stop(self) -> None:
        """End after the row in hand."""
        self._stop.set()
        self.running.set()
        if self._thread.is_alive():
            self._thread.join(60)

    def _work(self) -> None:
        try:
            asyncio.run(self._commit_rows())
        except BaseException as error:  # noqa: BLE001 - told at the end of the round
            self.failure = error

    async def _commit_rows(self) -> None:
        lite = sqlite3.connect(self._path, isolation_level=None)
        lite.execute("PRAGMA synchronous=FULL")
        lite.execute("PRAGMA wal_autocheckpoint=64")
        server = await asyncpg.connect(host=str(self._socket), user="postgres", database="postgres")
        while not self._stop.is_set():
            self.running.wait()
            number = self.sqlite.issue()
            lite.execute("INSERT INTO ledger VALUES (?, ?)", (number, word(number)))
            self.sqlite.acknowledge()
            self.postgresql.issue()
            await server.execute("INSERT INTO ledger VALUES ($1, $2)", number, word(number), timeout=120)
            self.postgresql.acknowledge()
            self._stop.wait(self._pause)
        lite.close()
        server.terminate()


def recovered_rows(folder: Path) -> list[str]:
    """The rows of a recovered file, once SQLite has checked it. Raises AssertionError."""
    lite = sqlite3.connect(folder / NAME)
    try:
        (verdict,) = lite.execute("PRAGMA integrity_check").fetchone()
        assert verdict == "ok", f"SQLite: {verdict}"
        return [f"{number} {said}" for number, said in lite.execute("SELECT n, word FROM ledger ORDER BY n")]
    except sqlite3.DatabaseError as error:
        raise AssertionError(f"SQLite: {error}") from error
    finally:
        lite.close()


def judge_rows(rows: list[str], what: str) -> list[str]:
    """What is wrong with rows that should be 1, 2, 3 … each with its word."""
    for number, row in enumerate(rows, 1):
        if row != f"{number} {word(number)}":
            return [f"{what}: row {number} of {len(rows)} reads {row[:40]!r}"]
    return []
