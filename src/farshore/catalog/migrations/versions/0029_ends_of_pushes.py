"""When a push by a process server fails for want of an end."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0029"
down_revision = "0028"
branch_labels = None
depends_on = None

_HALF_AN_HOUR = 1_800_000_000_000


def upgrade() -> None:
    """One step up. Those under way have as long as their tokens."""
    with op.batch_alter_table("pushes", schema=None) as batch_op:
        batch_op.add_column(sa.Column("ends", sa.BigInteger(), nullable=False, server_default="0"))
    pushes = sa.table("pushes", sa.column("created"), sa.column("ends"))
    op.get_bind().execute(pushes.update().values(ends=pushes.c.created + _HALF_AN_HOUR))


def downgrade() -> None:
    """One step down."""
    op.drop_column("pushes", "ends")
