"""Which process server was given which keys, and the deduplication domains of policies and epochs."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """One step up."""
    op.create_table(
        "key_grants",
        sa.Column("machine", sa.String(36), nullable=False),
        sa.Column("process_server", sa.String(36), nullable=False),
        sa.Column("domains", sa.JSON(), nullable=False),
        sa.Column("first", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("machine", "process_server", name=op.f("pk_key_grants")),
    )
    with op.batch_alter_table("epochs", schema=None) as batch_op:
        batch_op.add_column(sa.Column("domain", sa.BigInteger(), nullable=False, server_default="0"))
        batch_op.add_column(sa.Column("domain_name", sa.String(80), nullable=False, server_default=""))
    with op.batch_alter_table("policies", schema=None) as batch_op:
        batch_op.add_column(sa.Column("deduplication", sa.String(80), nullable=False, server_default="installation"))


def downgrade() -> None:
    """One step down."""
    with op.batch_alter_table("policies", schema=None) as batch_op:
        batch_op.drop_column("deduplication")
    with op.batch_alter_table("epochs", schema=None) as batch_op:
        batch_op.drop_column("domain_name")
        batch_op.drop_column("domain")
    op.drop_table("key_grants")
