"""What was checked of a recovered machine, how it is, and whether it is to run."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """One step up."""
    with op.batch_alter_table("failovers", schema=None) as batch_op:
        batch_op.add_column(sa.Column("checked", sa.String(), nullable=False, server_default=""))
        batch_op.add_column(sa.Column("cancelled", sa.Boolean(), nullable=False, server_default=sa.false()))
        batch_op.add_column(sa.Column("stopped", sa.Boolean(), nullable=False, server_default=sa.false()))
        batch_op.add_column(sa.Column("condition", sa.String(16), nullable=False, server_default=""))
        batch_op.add_column(sa.Column("condition_since", sa.BigInteger(), nullable=False, server_default="0"))


def downgrade() -> None:
    """One step down."""
    with op.batch_alter_table("failovers", schema=None) as batch_op:
        for name in ("condition_since", "condition", "stopped", "cancelled", "checked"):
            batch_op.drop_column(name)
