"""Chunks whose copy differed, how fast copies are proven, and what agents answer to a proof."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """One step up."""
    op.create_table(
        "differences",
        sa.Column("machine", sa.String(36), nullable=False),
        sa.Column("disk", sa.BigInteger(), nullable=False),
        sa.Column("start", sa.BigInteger(), nullable=False),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.Column("sequence", sa.BigInteger(), nullable=False),
        sa.Column("length", sa.BigInteger(), nullable=False),
        sa.Column("proven_epoch", sa.BigInteger(), nullable=False),
        sa.Column("proven_sequence", sa.BigInteger(), nullable=False),
        sa.Column("time", sa.BigInteger(), nullable=False),
        sa.Column("cause", sa.String(), nullable=False),
        sa.ForeignKeyConstraint(
            ["machine"], ["machines.id"], ondelete="CASCADE", name=op.f("fk_differences_machine_machines")
        ),
        sa.PrimaryKeyConstraint("machine", "disk", "start", "epoch", "sequence", name=op.f("pk_differences")),
    )
    with op.batch_alter_table("machines", schema=None) as batch_op:
        batch_op.add_column(sa.Column("proof_pace", sa.BigInteger(), nullable=False, server_default="2000000"))
    with op.batch_alter_table("commands", schema=None) as batch_op:
        batch_op.add_column(sa.Column("result", sa.JSON(), nullable=False, server_default="{}"))
    with op.batch_alter_table("failovers", schema=None) as batch_op:
        batch_op.add_column(sa.Column("proof", sa.String(), nullable=False, server_default=""))


def downgrade() -> None:
    """One step down."""
    with op.batch_alter_table("failovers", schema=None) as batch_op:
        batch_op.drop_column("proof")
    with op.batch_alter_table("commands", schema=None) as batch_op:
        batch_op.drop_column("result")
    with op.batch_alter_table("machines", schema=None) as batch_op:
        batch_op.drop_column("proof_pace")
    op.drop_table("differences")
