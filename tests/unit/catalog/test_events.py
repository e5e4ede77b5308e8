"""The log of events by cursor: oldest first, whole, however many come at once. Run on PostgreSQL as well."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.unit.protection.catalogs import NOW, fresh_catalog

from farshore.catalog import events
from farshore.catalog.database import Catalog, Transaction


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    made = fresh_catalog(tmp_path)
    yield made
    made.close()


def tell(tx: Transaction, *messages: str) -> None:
    """Events with equal times."""
    for message in messages:
        events.record(tx, time=NOW, kind="k", actor="server", subject="s", message=message)


def page(catalog: Catalog, after: int, limit: int) -> list[tuple[int, str]]:
    """As the API lists them."""
    with catalog.reading() as tx:
        until = events.settled(tx)
    with catalog.reading() as tx:
        return [(row.id, row.message) for row in events.listed(tx, after=after, until=until, limit=limit)]


def rest(catalog: Catalog, after: int = 0, limit: int = 100) -> Iterator[tuple[int, str]]:
    """What a follower sees that has seen ``after``."""
    while found := page(catalog, after, limit):
        yield from found
        after = found[-1][0]


def test_a_burst_with_equal_times_is_seen_whole_and_in_its_order(catalog: Catalog) -> None:
    messages = [str(number) for number in range(2500)]
    catalog.write(lambda tx: tell(tx, *messages))
    assert [message for _, message in rest(catalog)] == messages
    with catalog.reading() as tx:
        assert [row.message for row in events.listed(tx, newest=True, limit=3)] == ["2497", "2498", "2499"]


def test_a_cursor_goes_on_after_everything_was_forgotten(catalog: Catalog) -> None:
    catalog.write(lambda tx: tell(tx, "a", "b", "c"))
    (*_, (seen, _)) = rest(catalog)
    catalog.write(lambda tx: events.prune(tx, NOW + 1, 1000))
    catalog.write(lambda tx: tell(tx, "d"))
    assert [message for _, message in rest(catalog, seen)] == ["d"]


def test_nothing_of_a_transaction_that_failed_is_seen(catalog: Catalog) -> None:
    def fail(tx: Transaction) -> None:
        tell(tx, "never")
        tx.flush()
        raise KeyError

    with pytest.raises(KeyError):
        catalog.write(fail)
    catalog.write(lambda tx: tell(tx, "a"))
    assert [message for _, message in rest(catalog)] == ["a"]
