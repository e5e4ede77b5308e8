"""Migrations: up, down, and no difference from the models."""

from __future__ import annotations

from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Engine, inspect, text

from farshore.catalog.database import open_engine
from farshore.catalog.tables import Base
from farshore.catalog.upgrade import downgrade, upgrade
from farshore.model.errors import Unsupported


def engine(folder: Path) -> Engine:
    return open_engine(f"sqlite:///{folder / 'catalog.sqlite'}")


def test_up_and_down_and_up_again(tmp_path: Path) -> None:
    opened = engine(tmp_path)
    upgrade(opened)
    assert "machines" in inspect(opened).get_table_names()
    downgrade(opened, "base")
    assert inspect(opened).get_table_names() == ["alembic_version"]
    upgrade(opened)
    upgrade(opened)
    opened.dispose()


def test_the_models_are_what_the_migrations_make(tmp_path: Path) -> None:
    opened = engine(tmp_path)
    upgrade(opened)
    with opened.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, Base.metadata) == []
    opened.dispose()


def test_a_newer_catalog_is_refused_and_left_alone(tmp_path: Path) -> None:
    opened = engine(tmp_path)
    upgrade(opened)
    with opened.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(Unsupported, match="9999"):
        upgrade(opened)
    with opened.connect() as connection:
        assert connection.execute(text("SELECT version_num FROM alembic_version")).scalar() == "9999"
    opened.dispose()
