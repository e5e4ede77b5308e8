"""What machines are to be at a recovery site: by machine, by policy, and as each failover was asked for."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0021"
down_revision = "0020"
branch_labels = None
depends_on = None

_TABLES = ("policies", "machines", "failovers")


def upgrade() -> None:
    """One step up."""
    for table in _TABLES:
        with op.batch_alter_table(table, schema=None) as batch_op:
            batch_op.add_column(sa.Column("target", sa.JSON(), nullable=False, server_default="{}"))


def downgrade() -> None:
    """One step down."""
    for table in reversed(_TABLES):
        op.drop_column(table, "target")  # in place: a table made anew is one that others refer to no more
