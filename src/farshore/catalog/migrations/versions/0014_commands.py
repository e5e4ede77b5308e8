"""Commands as kind, arguments and result.

What was packed into ``point_kind`` and ``name`` becomes arguments; what was spread over columns becomes the result.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

NOBODY_WAITS = "nobody waits for it any more"
FAILED_OVER = "the machine is being failed over"
_NEW = sa.table(
    "commands",
    sa.column("id", sa.String(36)),
    sa.column("kind", sa.String(16)),
    sa.column("arguments", sa.JSON()),
    sa.column("state", sa.String(16)),
    sa.column("closed", sa.BigInteger()),
    sa.column("result", sa.JSON()),
    sa.column("failure", sa.JSON()),
)
_OLD = sa.table(
    "commands",
    sa.column("id", sa.String(36)),
    sa.column("kind", sa.String(16)),
    sa.column("point_kind", sa.String(32)),
    sa.column("name", sa.String()),
    sa.column("done", sa.BigInteger()),
    sa.column("error", sa.String()),
    sa.column("epoch", sa.BigInteger()),
    sa.column("sequence", sa.BigInteger()),
    sa.column("time", sa.BigInteger()),
    sa.column("result", sa.JSON()),
)


def upgrade() -> None:
    """One step up."""
    with op.batch_alter_table("commands", schema=None) as batch_op:
        batch_op.add_column(sa.Column("arguments", sa.JSON(), nullable=False, server_default="{}"))
        batch_op.add_column(sa.Column("state", sa.String(16), nullable=False, server_default="waiting"))
        batch_op.add_column(sa.Column("closed", sa.BigInteger(), nullable=False, server_default="0"))
        batch_op.add_column(sa.Column("failure", sa.JSON(), nullable=False, server_default="{}"))
    connection = op.get_bind()
    for row in connection.execute(sa.select(_OLD)).mappings().all():
        connection.execute(sa.update(_NEW).where(_NEW.c.id == row["id"]).values(**_raised(row)))
    with op.batch_alter_table("commands", schema=None) as batch_op:
        for column in ("point_kind", "name", "done", "error", "epoch", "sequence", "time"):
            batch_op.drop_column(column)
        batch_op.create_index("ix_commands_state_closed", ["state", "closed"])


def downgrade() -> None:
    """One step down."""
    with op.batch_alter_table("commands", schema=None) as batch_op:
        batch_op.drop_index("ix_commands_state_closed")
        batch_op.add_column(sa.Column("point_kind", sa.String(32), nullable=False, server_default=""))
        batch_op.add_column(sa.Column("name", sa.String(), nullable=False, server_default=""))
        batch_op.add_column(sa.Column("error", sa.String(), nullable=False, server_default=""))
        for column in ("done", "epoch", "sequence", "time"):
            batch_op.add_column(sa.Column(column, sa.BigInteger(), nullable=False, server_default="0"))
    connection = op.get_bind()
    for row in connection.execute(sa.select(_NEW)).mappings().all():
        connection.execute(sa.update(_OLD).where(_OLD.c.id == row["id"]).values(**_lowered(row)))
    with op.batch_alter_table("commands", schema=None) as batch_op:
        for column in ("arguments", "state", "closed", "failure"):
            batch_op.drop_column(column)


def _raised(row: Any) -> dict[str, Any]:
    arguments: dict[str, Any] = {}
    result: dict[str, Any] = {}
    if row["kind"] == "point":
        arguments = {"kind": row["point_kind"] or "crash-consistent", "name": row["name"]}
        result = {name: row[name] for name in ("epoch", "sequence", "time")}
    elif row["kind"] == "upgrade":
        release, _, digest = row["name"].partition(" ")
        arguments = {"release": release, "digest": digest}
        result = {"release": release}
    elif row["kind"] == "prove":
        arguments = {"whole": row["name"] == "whole"}
        result = {name: (row["result"] or {}).get(name, 0) for name in ("proven", "differing", "busy")}
    made: dict[str, Any] = {"arguments": arguments, "closed": row["done"], "result": {}, "failure": {}}
    if not row["done"]:
        return {**made, "state": "waiting"}
    if not row["error"]:
        return {**made, "state": "succeeded", "result": result}
    if row["error"] in (NOBODY_WAITS, FAILED_OVER):
        return {**made, "state": "withdrawn", "failure": {"message": row["error"]}}
    return {**made, "state": "failed", "failure": {"code": "refused", "message": row["error"], "remedy": ""}}


def _lowered(row: Any) -> dict[str, Any]:
    arguments, result, failure = row["arguments"] or {}, row["result"] or {}, row["failure"] or {}
    names = {
        "point": arguments.get("name", ""),
        "upgrade": f"{arguments.get('release', '')} {arguments.get('digest', '')}",
        "prove": "whole" if arguments.get("whole") else "",
    }
    closed = row["state"] != "waiting"
    error = " ".join(filter(None, (failure.get("message", ""), failure.get("remedy", ""))))
    return {
        "point_kind": arguments.get("kind", ""),
        "name": names.get(row["kind"], ""),
        "done": row["closed"],
        "error": (error or "it failed") if closed and row["state"] != "succeeded" else "",
        **{name: result.get(name, 0) for name in ("epoch", "sequence", "time")},
    }
