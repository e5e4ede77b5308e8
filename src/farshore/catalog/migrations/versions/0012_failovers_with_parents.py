"""The job that a failover is part of."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """One step up."""
    with op.batch_alter_table("failovers", schema=None) as batch_op:
        batch_op.add_column(sa.Column("parent", sa.String(36), nullable=False, server_default=""))
        batch_op.create_index(batch_op.f("ix_failovers_parent"), ["parent"], unique=False)


def downgrade() -> None:
    """One step down."""
    with op.batch_alter_table("failovers", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_failovers_parent"))
        batch_op.drop_column("parent")
