"""A real PostgreSQL for each file of tests, emptied for each test."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import text
from tests.crash.fire import postgres

from farshore.catalog.database import Catalog
from farshore.catalog.upgrade import upgrade


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """The start of a URL, to which ``&dbname=`` comes."""
    try:
        postgres.programs()
    except FileNotFoundError as error:
        pytest.skip(str(error))
    with tempfile.TemporaryDirectory(prefix="fs-pg-") as name:
        folder = Path(name)
        shutil.chown(folder, postgres.USER, postgres.USER)
        postgres.make(folder)
        with postgres.running(folder) as socket:
            yield f"postgresql+psycopg://{postgres.USER}@/postgres?host={socket}"


@pytest.fixture
def catalog(server: str) -> Iterator[Catalog]:
    """An empty one: what an earlier test left is removed."""
    made = Catalog(server)
    with made.engine.begin() as connection:
        connection.execute(text("DROP SCHEMA public CASCADE"))
        connection.execute(text("CREATE SCHEMA public"))
    upgrade(made.engine)
    yield made
    made.close()
