"""How DBOS' records are kept where they lie in a file of SQLite, the default.

With the settings of DBOS each write of a step costs four flushes to the disk, and whoever reads holds up whoever
writes: SQLite lets a writer sleep and try again. A write-ahead log takes one flush, and no reader waits for a writer.
"""

from __future__ import annotations

import sqlite3
from typing import Any


class WriteAheadConnection(sqlite3.Connection):
    """A connection with a write-ahead log, in which a step that was recorded survives a power cut."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.execute("PRAGMA journal_mode = WAL")
        # Some builds of SQLite flush a write-ahead log only now and then.
        self.execute("PRAGMA synchronous = FULL")


def engine_settings(database_url: str) -> dict[str, Any]:
    """Return SQLAlchemy's settings for DBOS' engine; none for another database."""
    if not database_url.startswith("sqlite"):
        return {}
    # A file does not go away as a server's connection does: nothing to ask before each use.
    return {"connect_args": {"factory": WriteAheadConnection}, "pool_pre_ping": False}
