"""Whether the loss of the catalog loses nothing of value: each table is in the vault, or stands here with a reason."""

from __future__ import annotations

from sqlalchemy import inspect

from farshore.catalog.dump import LEFT_OUT
from farshore.catalog.records import KINDS
from farshore.catalog.tables import Base

NOT_IN_THE_VAULT = {
    "installation": "the vault says itself who owns it",
    "points": "the vault holds them",
    "differences": "the vault keeps its own",
    "audit": "its head is kept, which is no table",
    "events": "docs/operate/site-lost.md says so",
    "alerts": "the watch finds what is wrong again",
    "alert_notices": "they go with the alerts",
    "enrolment_tokens": "one that was used since would be good again",
    "commands": "they would be carried out again",
    "pushes": "they go with their jobs",
    "errands": "they go with their jobs",
    "secrets": "they go with their jobs",
    "guest_scripts": "they go with their failover's check",
    "vmware_machines": "discovery finds them again",
    "vmware_places": "discovery finds them again",
}


def test_every_table_is_in_the_vault_or_said_not_to_be() -> None:
    kept = {kind.table.__tablename__ for kind in KINDS.values()}
    assert kept & set(NOT_IN_THE_VAULT) == set()
    assert kept | set(NOT_IN_THE_VAULT) == set(Base.metadata.tables), "a new table: a line in KINDS, or one here"


def test_what_is_left_out_of_a_kind_is_a_column_of_it() -> None:
    """A column that was renamed would be written to the vault with each heartbeat."""
    for name, kind in KINDS.items():
        columns = {column.key for column in inspect(kind.table).column_attrs}
        assert kind.without <= columns, name
        assert not kind.by or kind.by in columns, name


def test_a_backup_leaves_out_no_more_than_it_says() -> None:
    assert set(NOT_IN_THE_VAULT) >= LEFT_OUT
    assert set(Base.metadata.tables) >= LEFT_OUT
