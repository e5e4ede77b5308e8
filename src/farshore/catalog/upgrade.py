"""Upgrade a catalog to the schema of this release, at every start of the configuration server.

The schemas of the catalog and of this release are known without alembic, which takes a quarter of a second of a start:
it is loaded only if the two differ.
"""

from __future__ import annotations

from importlib.resources import files
from typing import TYPE_CHECKING

from sqlalchemy import Connection, Engine, column, inspect, select, table

from farshore.model.errors import Unsupported

if TYPE_CHECKING:
    from alembic.config import Config

_HEAD = "head"
_VERSIONS = "alembic_version"


def upgrade(engine: Engine, target: str = _HEAD) -> None:
    """Apply missing steps, all in one transaction. Raises Unsupported for a newer release's catalog."""
    newest = newest_schema()
    with engine.connect() as connection:
        if target in (_HEAD, newest) and schema_of(connection) == newest:
            return
    from alembic import command

    known = _schemas()
    with engine.begin() as connection:
        present = schema_of(connection)
        if present and present not in known:
            raise Unsupported(
                f"The catalog has schema {present}, which this release does not know.",
                remedy="Run the release that wrote it or a newer one.",
            )
        command.upgrade(_config(connection), target)


def downgrade(engine: Engine, target: str) -> None:
    """Go back to an older schema; ``base`` empties the catalog."""
    from alembic import command

    with engine.begin() as connection:
        command.downgrade(_config(connection), target)


def schema_of(connection: Connection) -> str:
    """Return the schema of a catalog; empty if there is none."""
    if not inspect(connection).has_table(_VERSIONS):
        return ""
    return connection.scalar(select(column("version_num")).select_from(table(_VERSIONS))) or ""


def newest_schema() -> str:
    """Return the schema of this release."""
    return max(_schemas())


def _schemas() -> set[str]:
    """Return every schema that there was, by the names of the steps: ``0001_the_first_catalog.py`` makes schema
    0001."""
    steps = files("farshore.catalog").joinpath("migrations", "versions").iterdir()
    return {step.name.partition("_")[0] for step in steps if step.name[:1].isdigit()}


def _config(connection: Connection) -> Config:
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(files("farshore.catalog").joinpath("migrations")))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    return config
