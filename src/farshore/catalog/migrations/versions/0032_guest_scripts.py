"""Scripts that the agents of recovered machines run as checks."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0032"
down_revision = "0031"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """One step up."""
    op.create_table(
        "guest_scripts",
        sa.Column("id", sa.String(36), nullable=False),
        sa.Column("failover", sa.String(36), nullable=False),
        sa.Column("machine", sa.String(36), nullable=False),
        sa.Column("hardware", sa.String(), nullable=False),
        sa.Column("place", sa.BigInteger(), nullable=False),
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("content", sa.String(), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("seconds", sa.BigInteger(), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("created", sa.BigInteger(), nullable=False),
        sa.Column("closed", sa.BigInteger(), nullable=False),
        sa.Column("status", sa.BigInteger(), nullable=True),
        sa.Column("output", sa.String(), nullable=False),
        sa.ForeignKeyConstraint(
            ["failover"], ["failovers.id"], name=op.f("fk_guest_scripts_failover_failovers"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_guest_scripts")),
    )
    with op.batch_alter_table("guest_scripts", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_guest_scripts_failover"), ["failover"], unique=False)
        batch_op.create_index(batch_op.f("ix_guest_scripts_machine"), ["machine"], unique=False)


def downgrade() -> None:
    """One step down."""
    op.drop_table("guest_scripts")
