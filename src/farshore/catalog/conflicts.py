"""Recognise database errors which mean that a transaction was rolled back because of another one.

Such a transaction may be repeated as a whole: nothing of it remains, and the next time it sees the other one's changes.
"""

from __future__ import annotations

import sqlite3

from sqlalchemy.exc import DBAPIError

SERIALIZATION_FAILURE, DEADLOCK, UNIQUE_VIOLATION = "40001", "40P01", "23505"
NUMBERED_BY_LOOKING = frozenset({"pk_audit"})
"""Keys that are chosen by reading the last one (farshore.catalog.audit). If two transactions choose the same,
PostgreSQL reports to the second one a duplicate key instead of a serialization failure."""
_SQLITE_PRIMARY = 0xFF
"""The part of an extended result code of SQLite that contains the kind of error."""


def is_conflict(error: DBAPIError) -> bool:
    """Return whether the transaction lost against another one: a serialization failure, a deadlock, or no lock of
    SQLite."""
    found = error.orig
    if isinstance(found, sqlite3.Error):
        code = getattr(found, "sqlite_errorcode", 0) & _SQLITE_PRIMARY
        return code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
    state = getattr(found, "sqlstate", None)
    if state == UNIQUE_VIOLATION:
        return getattr(getattr(found, "diag", None), "constraint_name", None) in NUMBERED_BY_LOOKING
    return state in (SERIALIZATION_FAILURE, DEADLOCK)
