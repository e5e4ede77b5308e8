"""Process servers that are made beside a recovered machine, and go with it."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0034"
down_revision = "0033"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """One step up. In place: a table made anew is one that others refer to no more."""
    op.add_column("process_servers", sa.Column("temporary", sa.JSON(), nullable=False, server_default="{}"))


def downgrade() -> None:
    """One step down."""
    op.drop_column("process_servers", "temporary")
