"""Where a machine runs, who owns its stream, and where its failovers take it.

A machine that an earlier release failed over runs at the site of that failover, under the failover's id.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """One step up."""
    with op.batch_alter_table("machines", schema=None) as batch_op:
        batch_op.add_column(sa.Column("site", sa.String(32), nullable=False, server_default=""))
        batch_op.add_column(sa.Column("owner", sa.String(), nullable=False, server_default=""))
    with op.batch_alter_table("failovers", schema=None) as batch_op:
        batch_op.add_column(sa.Column("direction", sa.String(16), nullable=False, server_default="away"))
    machines = sa.table("machines", *(sa.column(name) for name in ("id", "state", "site", "owner")))
    failovers = sa.table(
        "failovers", *(sa.column(name) for name in ("id", "machine", "kind", "state", "site", "requested"))
    )
    up = sa.select(failovers.c.machine, failovers.c.site, failovers.c.id).where(
        failovers.c.kind == "failover", failovers.c.state.in_(["running", "committed"])
    )
    for machine, site, failover in op.get_bind().execute(up.order_by(failovers.c.requested)).fetchall():
        # A machine whose source was protected again all the same sends from there.
        elsewhere = machines.c.state.in_(["failing-over", "failed-over", "committed"])
        op.execute(machines.update().where(machines.c.id == machine, elsewhere).values(site=site, owner=failover))


def downgrade() -> None:
    """One step down."""
    with op.batch_alter_table("failovers", schema=None) as batch_op:
        batch_op.drop_column("direction")
    with op.batch_alter_table("machines", schema=None) as batch_op:
        batch_op.drop_column("owner")
        batch_op.drop_column("site")
