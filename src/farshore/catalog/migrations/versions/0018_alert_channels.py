"""Channels on which alerts reach people, what each was told, and who has seen an alert."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """One step up."""
    op.create_table(
        "alert_channels",
        sa.Column("name", sa.String(32), nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("settings", sa.JSON(), nullable=False),
        sa.Column("secret", sa.LargeBinary(), nullable=False),
        sa.Column("severity", sa.String(16), nullable=False),
        sa.Column("repeat_every", sa.BigInteger(), nullable=False),
        sa.Column("created", sa.BigInteger(), nullable=False),
        sa.Column("claimed", sa.BigInteger(), nullable=False),
        sa.Column("delivered", sa.BigInteger(), nullable=False),
        sa.Column("trouble", sa.String(), nullable=False),
        sa.Column("trouble_since", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_alert_channels")),
    )
    op.create_table(
        "alert_notices",
        sa.Column("channel", sa.String(32), nullable=False),
        sa.Column("alert", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("sent", sa.BigInteger(), nullable=False),
        sa.Column("over", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["channel"], ["alert_channels.name"], name=op.f("fk_alert_notices_channel"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(["alert"], ["alerts.id"], name=op.f("fk_alert_notices_alert"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("channel", "alert", name=op.f("pk_alert_notices")),
    )
    with op.batch_alter_table("alerts") as batch:
        batch.add_column(sa.Column("acknowledged", sa.BigInteger(), nullable=False, server_default="0"))
        batch.add_column(sa.Column("acknowledged_by", sa.String(), nullable=False, server_default=""))


def downgrade() -> None:
    """One step down."""
    with op.batch_alter_table("alerts") as batch:
        batch.drop_column("acknowledged_by")
        batch.drop_column("acknowledged")
    op.drop_table("alert_notices")
    op.drop_table("alert_channels")
