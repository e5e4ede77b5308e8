"""Recovery sites that are declared lost."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0033"
down_revision = "0032"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """One step up."""
    op.add_column("sites", sa.Column("lost", sa.BigInteger(), nullable=False, server_default="0"))
    op.add_column("sites", sa.Column("left", sa.JSON(), nullable=False, server_default="[]"))


def downgrade() -> None:
    """One step down."""
    with op.batch_alter_table("sites", schema=None) as batch_op:
        batch_op.drop_column("left")
        batch_op.drop_column("lost")
