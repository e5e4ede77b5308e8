"""Alembic's entry: runs the steps on the connection that farshore.catalog.upgrade hands over."""

from __future__ import annotations

from alembic import context

from farshore.catalog.tables import Base

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    render_as_batch=True,
)
with context.begin_transaction():
    context.run_migrations()
