"""The audit log; who served an epoch before; what no list could show is cleaned."""

from __future__ import annotations

import json
import re
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_SQLITE = """CREATE TRIGGER audit_keeps_{what} BEFORE {what} ON audit
BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END"""
_FUNCTION = """CREATE OR REPLACE FUNCTION audit_is_append_only() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN RAISE EXCEPTION 'the audit log is append-only' USING ERRCODE = 'integrity_constraint_violation'; END $$"""
_POSTGRESQL = """CREATE TRIGGER audit_keeps_{what} BEFORE {what} ON audit
FOR EACH STATEMENT EXECUTE FUNCTION audit_is_append_only()"""
"""Of the statement: no trigger of a row sees a TRUNCATE, which SQLite does not have."""


def upgrade() -> None:
    """One step up."""
    op.create_table(
        "audit",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("time", sa.BigInteger(), nullable=False),
        sa.Column("kind", sa.String(64), nullable=False),
        sa.Column("actor", sa.String(), nullable=False),
        sa.Column("source", sa.String(64), nullable=False),
        sa.Column("subject", sa.String(), nullable=False),
        sa.Column("message", sa.String(), nullable=False),
        sa.Column("detail", sa.JSON(), nullable=False),
        sa.Column("previous", sa.String(64), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_audit")),
    )
    if op.get_bind().dialect.name == "postgresql":
        op.execute(_FUNCTION)
        triggers = [_POSTGRESQL.format(what=what) for what in ("UPDATE", "DELETE", "TRUNCATE")]
    else:
        triggers = [_SQLITE.format(what=what) for what in ("UPDATE", "DELETE")]
    for trigger in triggers:
        op.execute(trigger)
    with op.batch_alter_table("epochs", schema=None) as batch_op:
        batch_op.add_column(sa.Column("served_before", sa.JSON(), nullable=False, server_default="[]"))
    with op.batch_alter_table("process_servers", schema=None) as batch_op:
        batch_op.add_column(sa.Column("overstepped", sa.BigInteger(), nullable=False, server_default="0"))
        batch_op.add_column(sa.Column("overstepped_with", sa.String(), nullable=False, server_default=""))
    _clean()


def downgrade() -> None:
    """One step down."""
    with op.batch_alter_table("process_servers", schema=None) as batch_op:
        batch_op.drop_column("overstepped_with")
        batch_op.drop_column("overstepped")
    with op.batch_alter_table("epochs", schema=None) as batch_op:
        batch_op.drop_column("served_before")
    op.drop_table("audit")


def _clean() -> None:
    """Descriptions are taken as they are from now on; a heartbeat comes again within seconds."""
    connection = op.get_bind()
    connection.execute(sa.text("UPDATE machines SET heartbeat = '{}'"))
    for table, key in (("machines", ("id",)), ("epochs", ("machine", "epoch"))):
        rows = connection.execute(sa.text(f"SELECT {', '.join(key)}, description FROM {table}")).all()  # noqa: S608
        where = " AND ".join(f"{name} = :{name}" for name in key)
        for *names, stored in rows:
            before = json.loads(stored) if isinstance(stored, str) else stored
            after = _cleaned(before)
            if after != before:
                connection.execute(
                    sa.text(f"UPDATE {table} SET description = :new WHERE {where}"),  # noqa: S608
                    {"new": json.dumps(after), **dict(zip(key, names, strict=True))},
                )


def _cleaned(value: Any) -> Any:
    if isinstance(value, str):
        return CONTROL.sub("\N{REPLACEMENT CHARACTER}", value)[:200]
    if isinstance(value, list):
        return [_cleaned(one) for one in value[:256]]
    if isinstance(value, dict):
        return {name: _cleaned(one) for name, one in value.items()}
    return value
