"""What keeps one machine's stream from being stored."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """One step up."""
    with op.batch_alter_table("machines", schema=None) as batch_op:
        batch_op.add_column(sa.Column("stream_trouble", sa.String(), nullable=False, server_default=""))


def downgrade() -> None:
    """One step down."""
    with op.batch_alter_table("machines", schema=None) as batch_op:
        batch_op.drop_column("stream_trouble")
