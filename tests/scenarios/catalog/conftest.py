"""A real PostgreSQL for each file of tests, emptied for each test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sqlalchemy import text
from tests.scenarios.clusters import cluster

from farshore.catalog.database import Catalog
from farshore.catalog.upgrade import upgrade


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with cluster(connections=30) as url:
        yield url


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
