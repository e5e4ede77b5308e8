"""Recovery sites; the one that was always there is the first."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """One step up."""
    table = op.create_table(
        "sites",
        sa.Column("id", sa.String(32), nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("settings", sa.JSON(), nullable=False),
        sa.Column("secret", sa.LargeBinary(), nullable=False),
        sa.Column("created", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_sites")),
    )
    op.bulk_insert(table, [{"id": "qemu", "kind": "qemu", "settings": {}, "secret": b"", "created": 0}])


def downgrade() -> None:
    """One step down."""
    op.drop_table("sites")
