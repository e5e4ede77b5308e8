"""Transactions: what reading may change, what writing may lose, who waits for whom."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import text
from tests.unit.protection.catalogs import MACHINE, NOW, add_machine, fresh_catalog

from farshore.catalog import machines, policies
from farshore.catalog.database import Catalog
from farshore.model.errors import NotFound, WrongState
from farshore.model.policy import ReplicationPolicy
from farshore.model.states import MachineState


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    made = fresh_catalog(tmp_path)
    yield made
    made.close()


def test_sqlite_is_durable_checks_foreign_keys_and_lets_readers_by(catalog: Catalog) -> None:
    with catalog.reading() as tx:
        assert tx.execute(text("PRAGMA journal_mode")).scalar() == "wal"
        assert tx.execute(text("PRAGMA synchronous")).scalar() == 2
        assert tx.execute(text("PRAGMA foreign_keys")).scalar() == 1


def test_a_foreign_key_is_an_error_of_ours(catalog: Catalog) -> None:
    with pytest.raises(WrongState), catalog.writing() as tx:
        add_machine(tx, policy="no such policy")


def test_what_reading_changes_is_dropped(catalog: Catalog) -> None:
    with catalog.reading() as tx:
        policies.create(tx, ReplicationPolicy(name="gold"))
    with catalog.reading() as tx, pytest.raises(NotFound):
        policies.get(tx, "gold")


def test_a_failed_write_leaves_nothing(catalog: Catalog) -> None:
    def fail() -> None:
        with catalog.writing() as tx:
            policies.create(tx, ReplicationPolicy(name="gold"))
            raise NotFound("something else", remedy="-")

    with pytest.raises(NotFound):
        fail()
    with catalog.reading() as tx:
        assert [row.name for row in policies.every(tx)] == ["default", "default-failback"]


def test_read_then_write_loses_no_update(catalog: Catalog) -> None:
    with catalog.writing() as tx:
        add_machine(tx)

    def count() -> None:
        for _ in range(20):
            with catalog.writing() as tx:
                row = machines.get(tx, MACHINE)
                row.bandwidth_limit = row.bandwidth_limit + 1

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with catalog.reading() as tx:
        assert machines.get(tx, MACHINE).bandwidth_limit == 80


def test_a_machine_goes_only_where_its_state_allows(catalog: Catalog) -> None:
    with catalog.writing() as tx:
        row = add_machine(tx)
        with pytest.raises(WrongState, match="initial-replication"):
            machines.set_state(row, MachineState.FAILED_OVER)


def test_a_protected_machine_is_not_forgotten(catalog: Catalog) -> None:
    with catalog.writing() as tx:
        row = add_machine(tx, state="protected")
        with pytest.raises(WrongState, match="unprotect"):
            machines.delete(tx, row)


def test_a_policy_in_use_stays(catalog: Catalog) -> None:
    with catalog.writing() as tx:
        policies.create(tx, ReplicationPolicy(name="gold"))
        add_machine(tx, policy="gold", enrolled=NOW)
        with pytest.raises(WrongState, match="db1"):
            policies.delete(tx, "gold")
        with pytest.raises(WrongState, match="default"):
            policies.delete(tx, "default")
