"""How to log in to machines by SSH, for many of them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0022"
down_revision = "0021"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """One step up."""
    op.create_table(
        "push_accounts",
        sa.Column("name", sa.String(63), nullable=False),
        sa.Column("user", sa.String(), nullable=False),
        sa.Column("by", sa.String(16), nullable=False),
        sa.Column("jump", sa.String(), nullable=False),
        sa.Column("secret", sa.LargeBinary(), nullable=False),
        sa.Column("created", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_push_accounts")),
    )


def downgrade() -> None:
    """One step down."""
    op.drop_table("push_accounts")
