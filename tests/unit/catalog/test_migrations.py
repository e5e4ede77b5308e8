"""Migrations: up, down, and no difference from the models."""

from __future__ import annotations

import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, inspect, text

from farshore.api_types.commands import ARGUMENTS
from farshore.catalog import commands, machines, policies
from farshore.catalog.database import Catalog, open_engine
from farshore.catalog.tables import Base
from farshore.catalog.upgrade import downgrade, newest_schema, upgrade
from farshore.model.commands import CommandKind
from farshore.model.errors import Unsupported


def engine(folder: Path) -> Engine:
    return open_engine(f"sqlite:///{folder / 'catalog.sqlite'}")


def test_up_and_down_and_up_again(tmp_path: Path) -> None:
    opened = engine(tmp_path)
    upgrade(opened)
    assert "machines" in inspect(opened).get_table_names()
    downgrade(opened, "base")
    assert inspect(opened).get_table_names() == ["alembic_version"]
    upgrade(opened)
    upgrade(opened)
    opened.dispose()


def test_the_models_are_what_the_migrations_make(tmp_path: Path) -> None:
    opened = engine(tmp_path)
    upgrade(opened)
    with opened.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, Base.metadata) == []
    opened.dispose()


def test_the_name_of_a_step_says_which_schema_it_makes() -> None:
    """What is known without alembic is what alembic knows."""
    steps = Path(str(files("farshore.catalog").joinpath("migrations", "versions"))).glob("[0-9]*.py")
    for step in steps:
        assert f'revision = "{step.name.partition("_")[0]}"' in step.read_text().splitlines(), step
    config = Config()
    config.set_main_option("script_location", str(files("farshore.catalog").joinpath("migrations")))
    assert newest_schema() == ScriptDirectory.from_config(config).get_current_head()


def test_a_catalog_that_is_new_enough_is_opened_without_alembic(tmp_path: Path) -> None:
    upgrade(engine(tmp_path))
    look = (
        "import sys; from farshore.catalog.database import open_engine; from farshore.catalog.upgrade import upgrade;"
        f"upgrade(open_engine('sqlite:///{tmp_path / 'catalog.sqlite'}')); print('alembic' in sys.modules)"
    )
    told = subprocess.run([sys.executable, "-c", look], stdout=subprocess.PIPE, check=True, text=True)
    assert told.stdout == "False\n"


def test_a_newer_catalog_is_refused_and_left_alone(tmp_path: Path) -> None:
    opened = engine(tmp_path)
    upgrade(opened)
    with opened.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(Unsupported, match="9999"):
        upgrade(opened)
    with opened.connect() as connection:
        assert connection.execute(text("SELECT version_num FROM alembic_version")).scalar() == "9999"
    opened.dispose()


BEFORE = [
    # id, kind, point_kind, name, done, error, epoch, sequence, time, result
    ("p", "point", "app-consistent", "before", 9, "", 3, 77, 8, "{}"),
    ("q", "point", "", "", 0, "", 0, 0, 0, "{}"),
    ("u", "upgrade", "", "1.2 abc", 0, "", 0, 0, 0, "{}"),
    ("v", "prove", "", "whole", 9, "", 0, 0, 0, '{"proven": 5, "differing": 1, "busy": 2}'),
    ("w", "resync", "", "", 9, "nobody waits for it any more", 0, 0, 0, "{}"),
    ("x", "point", "crash-consistent", "", 9, "It would not freeze.", 0, 0, 0, "{}"),
]
AFTER = {
    "p": ({"kind": "app-consistent", "name": "before"}, "succeeded", {"epoch": 3, "sequence": 77, "time": 8}, {}),
    "q": ({"kind": "crash-consistent", "name": ""}, "waiting", {}, {}),
    "u": ({"release": "1.2", "digest": "abc"}, "waiting", {}, {}),
    "v": ({"whole": True}, "succeeded", {"proven": 5, "differing": 1, "busy": 2}, {}),
    "w": ({}, "withdrawn", {}, {"message": "nobody waits for it any more"}),
    "x": (
        {"kind": "crash-consistent", "name": ""},
        "failed",
        {},
        {"code": "refused", "message": "It would not freeze.", "remedy": ""},
    ),
}


def test_commands_of_earlier_releases_become_kind_arguments_and_result(tmp_path: Path) -> None:
    opened = engine(tmp_path)
    upgrade(opened, "0013")
    columns = "id, kind, point_kind, name, done, error, epoch, sequence, time, result"
    with opened.begin() as connection:
        connection.execute(text("PRAGMA defer_foreign_keys = ON"))
        connection.execute(
            text(
                "INSERT INTO policies (name, rpo_threshold, crash_consistent_every, app_consistent_every, hot_window,"
                " keep_hourly, keep_daily, keep_weekly, bandwidth, time_zone, deduplication)"
                " VALUES ('default', 1, 1, 1, 1, 1, 1, 1, '[]', 'UTC', 'installation')"
            )
        )
        connection.execute(
            text(
                "INSERT INTO machines (id, name, state, enrolled, policy, description, hardware_id, protect,"
                " exclude_disks, bandwidth_limit, cpu_percent, memory_limit, proof_pace, moving_to, chosen_server,"
                " epoch, run, heartbeat, last_seen, newest_point_time, last_app_consistent, lag, stream_trouble,"
                " clock_behind, clock_stepped)"
                " VALUES ('m', 'm', 'protected', 1, 'default', '{}', '', 1, '[]', 0, 1, 1, 1, '', '', 0, '', '{}',"
                " 0, 0, 0, '{}', '', 0, 0)"
            )
        )
        for row in BEFORE:
            values = dict(zip(columns.split(", "), row, strict=True))
            marks = ", ".join(f":{name}" for name in values)
            connection.execute(
                text(f"INSERT INTO commands ({columns}, machine, created) VALUES ({marks}, 'm', 1)"), values
            )
    upgrade(opened)
    catalog = Catalog(str(opened.url))
    with catalog.reading() as tx:
        found = {name: commands.get(tx, name) for name in AFTER}
    assert {name: (row.arguments, row.state, row.result, row.failure) for name, row in found.items()} == AFTER
    for row in found.values():
        assert ARGUMENTS[CommandKind(row.kind)].model_validate(row.arguments)
        assert bool(row.closed) == (row.state != "waiting")
    catalog.close()
    downgrade(opened, "0013")
    with opened.connect() as connection:
        back = {row[0]: tuple(row) for row in connection.execute(text(f"SELECT {columns} FROM commands"))}
    for row in BEFORE:
        kind = row[2] or ("crash-consistent" if row[1] == "point" else "")
        assert back[row[0]][:9] == (row[0], row[1], kind, *row[3:9])
    opened.dispose()


def test_policies_of_earlier_releases_get_failback_policies_and_machines_away_follow_them(tmp_path: Path) -> None:
    opened = engine(tmp_path)
    upgrade(opened, "0025")
    with opened.begin() as connection:
        for name in ("default", "gold", "gold-failback"):
            connection.execute(
                text(
                    "INSERT INTO policies (name, rpo_threshold, crash_consistent_every, app_consistent_every,"
                    " hot_window, keep_hourly, keep_daily, keep_weekly, bandwidth, time_zone, deduplication, target)"
                    " VALUES (:name, 7, 1, 1, 1, 1, 1, 1, '[\"1 MiB/s\"]', 'UTC', 'installation', '{\"site\": \"dr\"}')"
                ),
                {"name": name},
            )
    catalog = Catalog(str(opened.url))
    columns = ", ".join(column.name for column in Base.metadata.tables["machines"].columns)
    with opened.begin() as connection:
        known = {column["name"] for column in inspect(connection).get_columns("machines")}
        assert known == set(columns.split(", "))
        for name, state, site in (("a", "protected", "dr"), ("b", "protected", ""), ("c", "committed", "dr")):
            row = {"id": name, "name": name, "state": state, "enrolled": 1, "policy": "gold", "description": {}}
            connection.execute(Base.metadata.tables["machines"].insert().values(**row, site=site))
    upgrade(opened)
    with catalog.reading() as tx:
        assert policies.failback_names(tx) == {
            "default": "default-failback",
            "gold": "gold-failback-2",
            "gold-failback": "gold-failback-failback",
        }
        made = policies.get(tx, "gold-failback-2")
        assert (made.rpo_threshold, made.bandwidth, made.target, made.chosen) == (7, ["1 MiB/s"], {}, [])
        assert {row.name: row.policy for row in machines.every(tx)} == {
            "a": "gold-failback-2",
            "b": "gold",
            "c": "gold",
        }
    catalog.close()
    downgrade(opened, "0025")
    with opened.connect() as connection:
        found = connection.execute(text("SELECT name, policy FROM machines ORDER BY name")).all()
        assert [tuple(row) for row in found] == [("a", "gold"), ("b", "gold"), ("c", "gold")]
        assert connection.execute(text("SELECT count(*) FROM policies")).scalar() == 3
    opened.dispose()
