"""Brings a catalog to the schema of this release, at every start of the configuration server."""

from __future__ import annotations

from importlib.resources import files

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine

from farshore.model.errors import Unsupported


def upgrade(engine: Engine, target: str = "head") -> None:
    """Apply what is missing, all in one transaction. Raises Unsupported for a newer release's catalog."""
    config = _config()
    script = ScriptDirectory.from_config(config)
    with engine.begin() as connection:
        present = MigrationContext.configure(connection).get_current_revision()
        if present is not None and present not in {revision.revision for revision in script.walk_revisions()}:
            raise Unsupported(
                f"The catalog has schema {present}, which this release does not know.",
                remedy="Run the release that wrote it, or a newer one.",
            )
        config.attributes["connection"] = connection
        command.upgrade(config, target)


def downgrade(engine: Engine, target: str) -> None:
    """Go back to an older schema; ``base`` empties the catalog."""
    config = _config()
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.downgrade(config, target)


def schema_of(connection: Connection) -> str:
    """The schema that a catalog has; empty where there is none."""
    return MigrationContext.configure(connection).get_current_revision() or ""


def newest_schema() -> str:
    """The schema of this release."""
    return ScriptDirectory.from_config(_config()).get_current_head() or ""


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(files("farshore.catalog").joinpath("migrations")))
    config.set_main_option("path_separator", "os")
    return config
