"""Which process server a machine sends to."""

from __future__ import annotations

import pytest
from tests.unit.protection.catalogs import NOW, SECOND

from farshore.catalog.tables import MachineRow, ProcessServerRow
from farshore.model.errors import TryLater
from farshore.protection.assignment import choose


def server(name: str, **values: object) -> ProcessServerRow:
    fields = {"id": name, "url": name, "last_seen": NOW, "spool_bytes": 0, "spool_limit": 10, "store_trouble": ""}
    return ProcessServerRow(**{**fields, **values})


def machine(assigned: str | None = None) -> MachineRow:
    return MachineRow(id="m", process_server=assigned)


def test_a_machine_stays_where_it_is() -> None:
    assert choose(machine("b"), [server("a"), server("b")], {"b": 9}, NOW).id == "b"


def test_a_new_machine_goes_where_there_are_fewest() -> None:
    assert choose(machine(), [server("a"), server("b")], {"a": 2, "b": 1}, NOW).id == "b"


def test_a_server_with_trouble_at_its_store_comes_last() -> None:
    assert choose(machine(), [server("a", store_trouble="503"), server("b")], {"b": 5}, NOW).id == "b"


@pytest.mark.parametrize("sick", [{"last_seen": NOW - 16 * SECOND}, {"spool_bytes": 10}])
def test_a_silent_or_full_server_is_left(sick: dict[str, int]) -> None:
    assert choose(machine("a"), [server("a", **sick), server("b")], {}, NOW).id == "b"
    with pytest.raises(TryLater):
        choose(machine("a"), [server("a", **sick)], {}, NOW)
