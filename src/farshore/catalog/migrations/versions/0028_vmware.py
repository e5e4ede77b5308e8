"""VMware servers, and what discovery knows there."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0028"
down_revision = "0027"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """One step up."""
    op.create_table(
        "vmware_servers",
        sa.Column("name", sa.String(63), nullable=False),
        sa.Column("host", sa.String(), nullable=False),
        sa.Column("port", sa.BigInteger(), nullable=False),
        sa.Column("user", sa.String(), nullable=False),
        sa.Column("certificate", sa.String(), nullable=False),
        sa.Column("fingerprint", sa.String(), nullable=False),
        sa.Column("secret", sa.LargeBinary(), nullable=False),
        sa.Column("created", sa.BigInteger(), nullable=False),
        sa.Column("product", sa.String(), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("since", sa.BigInteger(), nullable=False),
        sa.Column("seen", sa.BigInteger(), nullable=False),
        sa.Column("trouble", sa.String(), nullable=False),
        sa.Column("remedy", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_vmware_servers")),
    )
    op.create_table(
        "vmware_machines",
        sa.Column("server", sa.String(63), nullable=False),
        sa.Column("id", sa.String(200), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("uuid", sa.String(), nullable=False),
        sa.Column("facts", sa.JSON(), nullable=False),
        sa.Column("changed", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["server"], ["vmware_servers.name"], name=op.f("fk_vmware_machines_server"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("server", "id", name=op.f("pk_vmware_machines")),
    )
    with op.batch_alter_table("vmware_machines", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_vmware_machines_name"), ["name"], unique=False)
    op.create_table(
        "vmware_places",
        sa.Column("server", sa.String(63), nullable=False),
        sa.Column("id", sa.String(200), nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("facts", sa.JSON(), nullable=False),
        sa.Column("changed", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["server"], ["vmware_servers.name"], name=op.f("fk_vmware_places_server"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("server", "id", name=op.f("pk_vmware_places")),
    )


def downgrade() -> None:
    """One step down."""
    op.drop_table("vmware_places")
    op.drop_table("vmware_machines")
    op.drop_table("vmware_servers")
