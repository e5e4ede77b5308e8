"""Each policy gets its failback policy, and machines that are replicated from a recovery site follow it."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0027"
down_revision = "0026"
branch_labels = None
depends_on = None

_COPIED = (
    "rpo_threshold",
    "crash_consistent_every",
    "app_consistent_every",
    "hot_window",
    "keep_hourly",
    "keep_daily",
    "keep_weekly",
    "bandwidth",
    "time_zone",
    "deduplication",
)
_NAME = 54
"""Characters of a policy's name that are part of its failback policy's."""


def upgrade() -> None:
    """One step up."""
    with op.batch_alter_table("policies", schema=None) as batch_op:
        batch_op.add_column(sa.Column("reverses", sa.String(64), nullable=False, server_default=""))
        batch_op.add_column(sa.Column("chosen", sa.JSON(), nullable=False, server_default="[]"))
    policies = sa.table(
        "policies",
        *(sa.column(name) for name in ("name", "reverses", *_COPIED)),
        sa.column("bandwidth", sa.JSON()),
        sa.column("target", sa.JSON()),
        sa.column("chosen", sa.JSON()),
    )
    machines = sa.table("machines", *(sa.column(name) for name in ("policy", "site", "state")))
    connection = op.get_bind()
    rows = connection.execute(sa.select(policies).order_by(policies.c.name)).mappings().all()
    taken = {row["name"] for row in rows}
    for row in rows:
        name = _free(str(row["name"]), taken)
        taken.add(name)
        values = {key: row[key] for key in _COPIED}
        connection.execute(policies.insert().values(name=name, reverses=row["name"], target={}, chosen=[], **values))
        replicated = machines.c.site != "", machines.c.state.in_(("resync", "protected"))
        moved = machines.update().where(machines.c.policy == row["name"], *replicated)
        connection.execute(moved.values(policy=name))


def _free(name: str, taken: set[str]) -> str:
    wanted, number = f"{name[:_NAME]}-failback", 2
    while wanted in taken:
        wanted, number = f"{name[: _NAME - 5]}-failback-{number}", number + 1
    return wanted


def downgrade() -> None:
    """One step down. In place, as in 0025."""
    policies = sa.table("policies", sa.column("name"), sa.column("reverses"))
    machines = sa.table("machines", sa.column("policy"))
    connection = op.get_bind()
    for name, reverses in connection.execute(sa.select(policies).where(policies.c.reverses != "")).all():
        connection.execute(machines.update().where(machines.c.policy == name).values(policy=reverses))
        connection.execute(policies.delete().where(policies.c.name == name))
    op.drop_column("policies", "chosen")
    op.drop_column("policies", "reverses")
