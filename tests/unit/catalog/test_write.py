"""``Catalog.write`` on SQLite: whose lock another holds, and what is not repeated."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import text
from tests.unit.protection.catalogs import fresh_catalog

from farshore.catalog import policies
from farshore.catalog.database import Catalog, Patience, Transaction
from farshore.model.errors import NotFound, TryLater, WrongState
from farshore.model.policy import ReplicationPolicy

SHORT = Patience(busy=0.02, tries=4, most=3600.0)


class Holder:
    """Another program that holds the write lock."""

    def __init__(self, path: Path) -> None:
        self._connection = sqlite3.connect(path, isolation_level=None)
        self._connection.execute("BEGIN IMMEDIATE")
        self.pauses = 0

    def goes_after(self, pauses: int) -> Callable[[float], None]:
        """A sleep in whose call number ``pauses`` the lock is let go."""

        def sleep(_seconds: float) -> None:
            self.pauses += 1
            if self.pauses == pauses:
                self._connection.execute("COMMIT")

        return sleep

    def close(self) -> None:
        self._connection.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    fresh_catalog(tmp_path).close()
    return tmp_path / "catalog.sqlite"


@pytest.fixture
def holder(path: Path) -> Iterator[Holder]:
    made = Holder(path)
    yield made
    made.close()


def gold(tx: Transaction) -> str:
    policies.create(tx, ReplicationPolicy(name="gold"))
    return policies.get(tx, "gold").name


def names(catalog: Catalog) -> list[str]:
    with catalog.reading() as tx:
        return [row.name for row in policies.every(tx) if not row.reverses]


def test_a_lock_that_is_let_go_is_waited_for(path: Path, holder: Holder) -> None:
    catalog = Catalog(f"sqlite:///{path}", SHORT, holder.goes_after(2))
    with pytest.raises(TryLater), catalog.writing() as tx:
        gold(tx)
    assert catalog.write(gold) == "gold"
    assert (holder.pauses, names(catalog)) == (2, ["default", "gold"])
    catalog.close()


def test_a_lock_that_stays_ends_in_an_error_that_says_what_to_do(path: Path, holder: Holder) -> None:
    catalog = Catalog(f"sqlite:///{path}", SHORT, holder.goes_after(1000))
    with pytest.raises(TryLater, match=r"4 times.*locked") as raised:
        catalog.write(gold)
    assert "holds a transaction open" in raised.value.remedy
    assert (holder.pauses, names(catalog)) == (3, ["default"])
    catalog.close()


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (lambda _tx: policies.get(_tx, "none"), NotFound),
        (lambda tx: tx.execute(text("INSERT INTO users VALUES ('a', 'reader', NULL)")), WrongState),
        (lambda tx: tx.execute(text("SELECT * FROM nothing")), TryLater),
        (lambda tx: tx.execute(text("SELECT :a"), [{"b": 1}]), Exception),
    ],
)
def test_other_errors_come_through_at_once(
    path: Path, fault: Callable[[Transaction], object], expected: type[Exception]
) -> None:
    catalog = Catalog(f"sqlite:///{path}", SHORT)
    calls = []

    def fail(tx: Transaction) -> None:
        calls.append(1)
        policies.create(tx, ReplicationPolicy(name="gold"))
        tx.flush()
        fault(tx)

    with pytest.raises(expected):
        catalog.write(fail)
    assert (len(calls), names(catalog)) == (1, ["default"])
    catalog.close()
