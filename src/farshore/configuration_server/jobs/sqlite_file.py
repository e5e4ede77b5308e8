"""Settings for DBOS' records in a SQLite file, the default.

With DBOS' own settings each write of a step costs four flushes to the disk, and readers delay writers, because SQLite
lets a writer sleep and retry. A write-ahead log takes one flush, and no reader waits for a writer.
"""

from __future__ import annotations

import sqlite3
from typing import Any


class WriteAheadConnection(sqlite3.Connection):
    """A connection with a write-ahead log, in which a recorded step survives a power cut."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.execute("PRAGMA journal_mode = WAL")
        # Some builds of SQLite flush a write-ahead log only now and then.
        self.execute("PRAGMA synchronous = FULL")


def engine_settings(database_url: str) -> dict[str, Any]:
    """Return SQLAlchemy's settings for DBOS' engine; empty for another database."""
    if not database_url.startswith("sqlite"):
        return {}
    # A file does not disappear as a server's connection does, so no check is needed before each use.
    return {"connect_args": {"factory": WriteAheadConnection}, "pool_pre_ping": False}
