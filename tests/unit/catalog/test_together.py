"""Transactions of many callers carried out together: one commit, each answers for itself, nobody is left waiting."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from sqlalchemy import event
from tests.unit.protection.catalogs import NOW, fresh_catalog

from farshore.catalog import together, users
from farshore.catalog.database import Catalog, Transaction
from farshore.catalog.tables import UserRow
from farshore.catalog.together import Together
from farshore.model.errors import NotFound, TryLater


class World:
    def __init__(self, folder: Path) -> None:
        self.catalog = fresh_catalog(folder)
        self.prepared: list[list[str]] = []
        self.commits = 0
        self.gathered = threading.Event()
        self.gathered.set()
        self.together = Together(self.catalog, self.prepare, 0.0)
        event.listen(self.catalog.engine, "commit", self._count)

    def _count(self, _connection: object) -> None:
        self.commits += 1

    def prepare(self, _tx: Transaction, subjects: Sequence[str]) -> None:
        assert self.gathered.wait(60)
        self.prepared.append(list(subjects))

    def names(self) -> list[str]:
        with self.catalog.reading() as tx:
            return [row.name for row in users.every(tx)]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.gathered.set()
    made.catalog.close()


def adds(name: str) -> Callable[[Transaction], str]:
    def write(tx: Transaction) -> str:
        users.add(tx, UserRow(name=name, role="reader", created=NOW))
        return name.upper()

    return write


def fails(_tx: Transaction) -> str:
    raise NotFound("There is none.", remedy="-")


def test_what_comes_while_another_is_written_shares_a_transaction(world: World) -> None:
    world.gathered.clear()
    first = world.together.write("a", adds("a"))
    others = [world.together.write(name, adds(name)) for name in "bcdefgh"]
    world.gathered.set()
    assert [one.result(60) for one in [first, *others]] == list("ABCDEFGH")
    assert world.names() == list("abcdefgh")
    assert [name for group in world.prepared for name in group] == list("abcdefgh")
    assert len(world.prepared) <= 2
    assert world.commits == len(world.prepared)


def test_one_that_fails_fails_alone(world: World) -> None:
    world.gathered.clear()
    world.together.write("before", adds("before"))
    good, bad, also = (world.together.write("x", one) for one in (adds("good"), fails, adds("also")))
    world.gathered.set()
    assert (good.result(60), also.result(60)) == ("GOOD", "ALSO")
    with pytest.raises(NotFound):
        bad.result(60)
    assert world.names() == ["also", "before", "good"]


def test_a_catalog_that_does_not_answer_is_asked_once_for_all(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = 0

    def write(_self: Catalog, _function: object) -> None:
        nonlocal asked
        asked += 1
        raise TryLater("It is locked.", remedy="-")

    monkeypatch.setattr(Catalog, "write", write)
    waiting = [world.together.write(name, adds(name)) for name in "abc"]
    for one in waiting:
        with pytest.raises(TryLater):
            one.result(60)
    assert asked <= 3


def test_groups_are_bounded_and_nothing_is_left(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(together, "MOST", 3)
    world.gathered.clear()
    waiting = [world.together.write(str(number), adds(f"u{number}")) for number in range(10)]
    world.gathered.set()
    assert len([one.result(60) for one in waiting]) == 10
    assert max(map(len, world.prepared)) <= 3
    assert world.together.write("late", adds("late")).result(60) == "LATE"


def test_one_that_nobody_waits_for_any_more_is_left_out(world: World) -> None:
    world.gathered.clear()
    first = world.together.write("a", adds("a"))
    left, kept = world.together.write("b", adds("b")), world.together.write("c", adds("c"))
    cancelled = left.cancel()
    world.gathered.set()
    assert (first.result(60), kept.result(60)) == ("A", "C")
    assert ("b" in world.names()) is not cancelled
