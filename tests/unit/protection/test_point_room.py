"""Room for points is known without counting them each time, and the limit holds all the same."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.unit.protection.catalogs import MACHINE, NOW, add_machine, fresh_catalog

from farshore.catalog import points
from farshore.catalog.database import Catalog, Transaction
from farshore.catalog.tables import PointRow
from farshore.protection.point_room import REMEMBERED, PointRoom


class World:
    def __init__(self, catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
        self.catalog, self.room, self.counted = catalog, PointRoom(), 0
        counts = points.counts

        def noted(tx: Transaction, of: object) -> dict[str, int]:
            self.counted += 1
            return counts(tx, of)  # type: ignore[arg-type]

        monkeypatch.setattr(points, "counts", noted)

    def add(self, number: int, limit: int = 10, now: int = NOW) -> int:
        """How many of so many new points are listed."""
        with self.catalog.writing() as tx:
            before = tx.query(PointRow).count()
            room = self.room.take(tx, {MACHINE: number}, limit, now)[MACHINE]
            for sequence in range(before, before + room):
                row = PointRow(id=f"p{sequence}", machine=MACHINE, epoch=1, sequence=sequence, time=NOW, kind="crash")
                points.record(tx, row)
            return room

    def drop(self, number: int) -> None:
        with self.catalog.writing() as tx:
            for row in points.listed(tx, MACHINE, limit=number):
                tx.delete(row)


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    catalog = fresh_catalog(tmp_path)
    with catalog.writing() as tx:
        add_machine(tx)
    yield World(catalog, monkeypatch)
    catalog.close()


def test_they_are_counted_once_until_the_limit_is_near(world: World) -> None:
    assert [world.add(2) for _ in range(4)] == [2, 2, 2, 2]
    assert world.counted == 1
    assert [world.add(3), world.add(3)] == [2, 0]
    assert world.counted == 3


def test_what_retention_drops_makes_room(world: World) -> None:
    world.add(10)
    world.drop(4)
    assert world.add(6) == 4


def test_what_another_server_lists_is_found_within_the_hour(world: World) -> None:
    other = PointRoom()
    world.add(1)
    mine, world.room = world.room, other
    world.add(8)
    world.room = mine
    assert world.add(3, now=NOW + REMEMBERED) == 1


def test_a_clock_that_was_set_back_remembers_nothing_for_longer(world: World) -> None:
    world.add(1)
    world.add(1, now=NOW - 2 * REMEMBERED)
    assert world.counted == 2
