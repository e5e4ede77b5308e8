"""How much of its machine an agent may take."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """One step up."""
    with op.batch_alter_table("machines", schema=None) as batch_op:
        batch_op.add_column(sa.Column("cpu_percent", sa.BigInteger(), nullable=False, server_default="10"))
        batch_op.add_column(sa.Column("memory_limit", sa.BigInteger(), nullable=False, server_default="268435456"))


def downgrade() -> None:
    """One step down."""
    with op.batch_alter_table("machines", schema=None) as batch_op:
        batch_op.drop_column("memory_limit")
        batch_op.drop_column("cpu_percent")
