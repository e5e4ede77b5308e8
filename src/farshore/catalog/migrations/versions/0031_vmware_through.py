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
    """One step down. In place, as in 0025: a table that is made anew takes the rows that refer to it along."""
    op.drop_column("vmware_servers", "through")
