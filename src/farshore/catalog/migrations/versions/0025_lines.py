"""Where the line of a machine's life that a failover began grows from."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0025"
down_revision = "0024"
branch_labels = None
depends_on = None

_NUMBERS = ("line_epoch", "line_sequence", "line_after")


def upgrade() -> None:
    """One step up. What was committed before begins its line at the position that its failover chose."""
    with op.batch_alter_table("machines", schema=None) as batch_op:
        for name in _NUMBERS:
            batch_op.add_column(sa.Column(name, sa.BigInteger(), nullable=False, server_default="0"))
    with op.batch_alter_table("epochs", schema=None) as batch_op:
        batch_op.add_column(sa.Column("exact", sa.Boolean(), nullable=False, server_default=sa.false()))
    machines = sa.table("machines", *(sa.column(name) for name in ("id", "state", "site", "epoch", *_NUMBERS)))
    failovers = sa.table(
        "failovers",
        *(sa.column(name) for name in ("machine", "kind", "state", "site", "running", "point_epoch", "point_sequence")),
    )
    found = sa.select(machines.c.id, machines.c.epoch, failovers.c.point_epoch, failovers.c.point_sequence).where(
        machines.c.state == "committed",
        failovers.c.machine == machines.c.id,
        failovers.c.site == machines.c.site,
        failovers.c.kind == "failover",
        failovers.c.state == "committed",
    )
    connection = op.get_bind()
    for machine, epoch, point_epoch, point_sequence in connection.execute(found.order_by(failovers.c.running)).all():
        connection.execute(
            machines.update()
            .where(machines.c.id == machine)
            .values(line_epoch=point_epoch, line_sequence=point_sequence, line_after=epoch)
        )


def downgrade() -> None:
    """One step down. In place: a table made anew is one that others refer to no more."""
    op.drop_column("epochs", "exact")
    for name in _NUMBERS:
        op.drop_column("machines", name)
