"""Indexes for what is asked of many machines: lists by state, policy and process server, open epochs, open alerts."""

from __future__ import annotations

from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None

_INDEXES = (
    ("ix_machines_state_name", "machines", ["state", "name"]),
    ("ix_machines_policy_name", "machines", ["policy", "name"]),
    ("ix_machines_process_server_name", "machines", ["process_server", "name"]),
    ("ix_epochs_closed_machine", "epochs", ["closed", "machine"]),
    ("ix_alerts_cleared", "alerts", ["cleared"]),
)


def upgrade() -> None:
    """One step up."""
    for name, table, columns in _INDEXES:
        op.create_index(name, table, columns)


def downgrade() -> None:
    """One step down."""
    for name, table, _ in reversed(_INDEXES):
        op.drop_index(name, table)
