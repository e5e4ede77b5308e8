"""What is asked of the store, and up to where a machine has written something."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """One step up."""
    with op.batch_alter_table("process_servers", schema=None) as batch_op:
        batch_op.add_column(sa.Column("requests", sa.JSON(), nullable=False, server_default="{}"))
        batch_op.add_column(sa.Column("requests_seconds", sa.Double(), nullable=False, server_default="0"))
    with op.batch_alter_table("epochs", schema=None) as batch_op:
        batch_op.add_column(sa.Column("written", sa.BigInteger(), nullable=False, server_default="0"))
    op.execute("UPDATE epochs SET written = stored")


def downgrade() -> None:
    """One step down."""
    with op.batch_alter_table("epochs", schema=None) as batch_op:
        batch_op.drop_column("written")
    with op.batch_alter_table("process_servers", schema=None) as batch_op:
        batch_op.drop_column("requests_seconds")
        batch_op.drop_column("requests")
