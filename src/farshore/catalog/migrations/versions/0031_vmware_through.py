"""VMware servers that a process server follows, at the site where they are."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0031"
down_revision = "0030"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """One step up."""
    op.add_column("vmware_servers", sa.Column("through", sa.String(36), nullable=False, server_default=""))


def downgrade() -> None:
    """One step down."""
    with op.batch_alter_table("vmware_servers", schema=None) as batch_op:
        batch_op.drop_column("through")
