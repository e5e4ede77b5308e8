"""Master targets that are registered, and what they do for failbacks."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0030"
down_revision = "0029"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """One step up."""
    op.create_table(
        "master_targets",
        sa.Column("id", sa.String(36), nullable=False),
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("own", sa.Boolean(), nullable=False),
        sa.Column("registered", sa.BigInteger(), nullable=False),
        sa.Column("revoked", sa.Boolean(), nullable=False),
        sa.Column("version", sa.String(), nullable=False),
        sa.Column("last_seen", sa.BigInteger(), nullable=False),
        sa.Column("host", sa.String(64), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_master_targets")),
    )
    op.create_table(
        "errands",
        sa.Column("id", sa.String(36), nullable=False),
        sa.Column("failover", sa.String(36), nullable=False),
        sa.Column("master_target", sa.String(36), nullable=False),
        sa.Column("machine", sa.String(36), nullable=False),
        sa.Column("errand", sa.String(16), nullable=False),
        sa.Column("position", sa.String(), nullable=False),
        sa.Column("places", sa.JSON(), nullable=False),
        sa.Column("created", sa.BigInteger(), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("run", sa.String(), nullable=False),
        sa.Column("signs", sa.BigInteger(), nullable=False),
        sa.Column("fraction", sa.Double(), nullable=False),
        sa.Column("detail", sa.String(), nullable=False),
        sa.Column("result", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_errands")),
        sa.UniqueConstraint("failover", name=op.f("uq_errands_failover")),
    )
    with op.batch_alter_table("errands", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_errands_master_target"), ["master_target"], unique=False)
    with op.batch_alter_table("enrolment_tokens", schema=None) as batch_op:
        batch_op.add_column(sa.Column("master_target", sa.String(36), nullable=False, server_default=""))


def downgrade() -> None:
    """One step down."""
    with op.batch_alter_table("enrolment_tokens", schema=None) as batch_op:
        batch_op.drop_column("master_target")
    op.drop_table("errands")
    op.drop_table("master_targets")
