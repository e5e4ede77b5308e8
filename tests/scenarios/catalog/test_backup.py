"""A backup of a catalog in SQLite, restored to PostgreSQL, and one of that: no row differs, rows go on numbering."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.unit.configuration_server.test_adopting import Site, first
from tests.unit.configuration_server.test_restoring import backup, key, live_on

from farshore.catalog import audit, dump, events, failovers, machines, policies
from farshore.catalog.database import Catalog
from farshore.configuration_server import restoring
from farshore.configuration_server.backing_up import back_up
from farshore.configuration_server.backup_file import Backup
from farshore.configuration_server.restoring import restore
from farshore.model.errors import WrongState
from farshore.vault.keys.files import open_key_file

__all__ = ["backup", "first", "key"]
pytestmark = pytest.mark.root


def rows(catalog: Catalog) -> dict[str, list[list[object]]]:
    found: dict[str, list[list[object]]] = {}
    with catalog.reading() as tx:
        for table, _, part in dump.dump(tx):
            found.setdefault(table, []).extend(part)
    return found


def test_no_row_differs_between_the_two(first: Site, backup: Path, key: Path, catalog: Catalog) -> None:
    of_sqlite = first.catalog()
    found = Backup(backup, open_key_file(key))
    dump.load(catalog.engine, found.contents.schema, found.tables())
    assert rows(catalog) == rows(of_sqlite)
    of_sqlite.close()
    with catalog.writing() as tx:
        last = max(one.id for one in events.listed(tx))
        events.record(tx, time=1, kind="x", actor="a", subject="s", message="It goes on.")
        assert max(one.id for one in events.listed(tx)) == last + 1


def test_an_installation_comes_back_in_postgresql_and_is_backed_up_from_there(
    first: Site, backup: Path, key: Path, catalog: Catalog, server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    live_on(first)
    home, given = tmp_path / "elsewhere", {"catalog_url": server}

    def cut_off(*_arguments: object, **_named: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(restoring, "reconcile", cut_off)
        with pytest.raises(KeyboardInterrupt):
            restore(home, backup, key, given, first.clock)
    report = restore(home, backup, key, given, first.clock)
    assert [one.name for one in report.machines] == ["db2"]
    with catalog.reading() as tx:
        assert policies.get(tx, "gold").rpo_threshold == 33
        assert (machines.get(tx, machines.every(tx)[0].id).name, failovers.get(tx, "f2").state) == ("db2", "committed")
        assert [one.kind for one in audit.listed(tx)].count("installation.restored") == 1
    settings = restoring.load(home)
    second = back_up(settings, tmp_path / "second.backup", first.clock)
    assert second.contents.rows["machines"] == 1
    with pytest.raises(WrongState, match="is not empty"):
        restore(home, second.path, key, {}, first.clock)
