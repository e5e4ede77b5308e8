"""How the clocks of machines and process servers stand."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """One step up."""
    with op.batch_alter_table("machines", schema=None) as batch_op:
        batch_op.add_column(sa.Column("clock_behind", sa.Double(), nullable=False, server_default="0"))
        batch_op.add_column(sa.Column("clock_stepped", sa.BigInteger(), nullable=False, server_default="0"))
    with op.batch_alter_table("process_servers", schema=None) as batch_op:
        batch_op.add_column(sa.Column("clock", sa.JSON(), nullable=False, server_default="{}"))


def downgrade() -> None:
    """One step down."""
    with op.batch_alter_table("process_servers", schema=None) as batch_op:
        batch_op.drop_column("clock")
    with op.batch_alter_table("machines", schema=None) as batch_op:
        batch_op.drop_column("clock_stepped")
        batch_op.drop_column("clock_behind")
