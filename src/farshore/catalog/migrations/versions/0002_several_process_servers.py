"""Several process servers: names, draining, moving machines; bandwidth by schedule."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """One step up."""
    _add("policies", _schedule())
    trouble: list[sa.Column[Any]] = [
        sa.Column("spool_trouble", sa.String(), nullable=False, server_default=""),
        sa.Column("store_trouble_since", sa.BigInteger(), nullable=False, server_default="0"),
    ]
    wanted: list[sa.Column[Any]] = [
        sa.Column("name", sa.String(length=64), nullable=False, server_default=""),
        sa.Column("host_names", sa.JSON(), nullable=False, server_default="[]"),
        sa.Column("draining", sa.Boolean(), nullable=False, server_default=sa.false()),
    ]
    _add("process_servers", [*trouble, *wanted, *_schedule()])
    op.execute(sa.text("UPDATE process_servers SET name = id"))
    _add(
        "machines",
        [
            sa.Column("moving_to", sa.String(length=36), nullable=False, server_default=""),
            sa.Column("chosen_server", sa.String(length=36), nullable=False, server_default=""),
        ],
    )
    _add("enrolment_tokens", [sa.Column("process_server", sa.String(length=36), nullable=False, server_default="")])


def downgrade() -> None:
    """One step down."""
    _drop("enrolment_tokens", "process_server")
    _drop("machines", "moving_to", "chosen_server")
    servers = ("spool_trouble", "store_trouble_since", "name", "host_names", "draining", "bandwidth", "time_zone")
    _drop("process_servers", *servers)
    _drop("policies", "bandwidth", "time_zone")


def _schedule() -> list[sa.Column[Any]]:
    return [
        sa.Column("bandwidth", sa.JSON(), nullable=False, server_default="[]"),
        sa.Column("time_zone", sa.String(length=64), nullable=False, server_default="UTC"),
    ]


def _add(table: str, columns: list[sa.Column[Any]]) -> None:
    with op.batch_alter_table(table, schema=None) as batch_op:
        for column in columns:
            batch_op.add_column(column)


def _drop(table: str, *columns: str) -> None:
    with op.batch_alter_table(table, schema=None) as batch_op:
        for column in columns:
            batch_op.drop_column(column)
