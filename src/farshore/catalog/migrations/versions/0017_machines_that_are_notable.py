"""What the watch reads of every machine in each round, in one index."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None

_INDEX = "ix_machines_standing"
_COLUMNS = ["state", "policy", "process_server", "moving_to", "chosen_server", "notable", "id"]


def upgrade() -> None:
    """One step up. Every machine is notable until its next heartbeat says otherwise."""
    # Not in a batch: that makes SQLite's table anew, and dropping the old one deletes what refers to machines.
    op.add_column("machines", sa.Column("notable", sa.Boolean(), nullable=False, server_default="1"))
    op.create_index(_INDEX, "machines", _COLUMNS)


def downgrade() -> None:
    """One step down."""
    op.drop_index(_INDEX, "machines")
    op.drop_column("machines", "notable")
