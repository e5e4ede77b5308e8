"""Which errors of a database say that a transaction was undone because another one came between.

Such a transaction may be repeated as a whole: nothing of it is left, and the next time it sees what the other one did.
"""

from __future__ import annotations

import sqlite3

from sqlalchemy.exc import DBAPIError

SERIALIZATION_FAILURE, DEADLOCK, UNIQUE_VIOLATION = "40001", "40P01", "23505"
NUMBERED_BY_LOOKING = frozenset({"pk_audit"})
"""Keys that are chosen by reading the last one (farshore.catalog.audit). Where two choose the same, PostgreSQL tells
the second one of the key that is taken, and not of the serialization that failed."""
_SQLITE_PRIMARY = 0xFF
"""The part of an extended result code of SQLite that says what kind of error it is."""


def is_conflict(error: DBAPIError) -> bool:
    """Return whether the transaction lost against another one: a serialization failure, a deadlock, SQLite's lock not
    had."""
    found = error.orig
    if isinstance(found, sqlite3.Error):
        code = getattr(found, "sqlite_errorcode", 0) & _SQLITE_PRIMARY
        return code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
    state = getattr(found, "sqlstate", None)
    if state == UNIQUE_VIOLATION:
        return getattr(getattr(found, "diag", None), "constraint_name", None) in NUMBERED_BY_LOOKING
    return state in (SERIALIZATION_FAILURE, DEADLOCK)
