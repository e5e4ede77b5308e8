"""The catalog on a real PostgreSQL: its migrations, and the audit log's tests."""

from __future__ import annotations

import threading
from itertools import pairwise
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import inspect, text
from sqlalchemy.exc import IntegrityError
from tests.unit.configuration_server.offices import Office
from tests.unit.configuration_server.test_audit import (  # run here with the office below
    admin,
    test_a_flood_of_refused_requests_is_counted_and_not_kept,
    test_no_entry_changes,
    test_what_users_change_and_who_is_refused_is_in_it_and_chained,
)

from farshore.catalog import audit, policies
from farshore.catalog.database import Catalog, Transaction
from farshore.catalog.tables import Base
from farshore.catalog.upgrade import downgrade, upgrade

__all__ = [
    "admin",
    "test_a_flood_of_refused_requests_is_counted_and_not_kept",
    "test_no_entry_changes",
    "test_what_users_change_and_who_is_refused_is_in_it_and_chained",
]
pytestmark = pytest.mark.root

WRITERS, EACH = 4, 5


@pytest.fixture
def office(tmp_path: Path, catalog: Catalog) -> Office:
    with catalog.writing() as tx:
        policies.ensure_default(tx)
    return Office(tmp_path, catalog)


def test_migrations_go_up_down_and_up_and_make_the_models(catalog: Catalog) -> None:
    downgrade(catalog.engine, "base")
    assert inspect(catalog.engine).get_table_names() == ["alembic_version"]
    upgrade(catalog.engine)
    with catalog.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, Base.metadata) == []


def test_the_log_is_not_emptied_as_a_whole(catalog: Catalog) -> None:
    """No trigger of a row sees a TRUNCATE."""
    entry(catalog, "one")
    with pytest.raises(IntegrityError, match="append-only"), catalog.engine.begin() as connection:
        connection.execute(text("TRUNCATE audit"))
    with catalog.reading() as tx:
        assert len(audit.listed(tx)) == 1


def test_entries_that_come_together_make_one_chain(catalog: Catalog) -> None:
    def write(name: int) -> None:
        for number in range(EACH):
            entry(catalog, f"{name}/{number}")

    threads = [threading.Thread(target=write, args=(name,)) for name in range(WRITERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with catalog.reading() as tx:
        found = audit.listed(tx)
    assert [row.id for row in found] == list(range(1, WRITERS * EACH + 1))
    assert all(after.previous == before.digest for before, after in pairwise(found))


def entry(catalog: Catalog, subject: str) -> None:
    def append(tx: Transaction) -> None:
        audit.append(tx, time=1, kind="user.created", actor="user/admin", subject=subject, message="-")

    catalog.write(append)
