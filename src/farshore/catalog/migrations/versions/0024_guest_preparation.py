"""What was changed in the guest of a failover."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0024"
down_revision = "0023"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """One step up."""
    with op.batch_alter_table("failovers", schema=None) as batch_op:
        batch_op.add_column(sa.Column("preparation", sa.JSON(), nullable=False, server_default="{}"))


def downgrade() -> None:
    """One step down."""
    op.drop_column("failovers", "preparation")  # in place, as in 0021
