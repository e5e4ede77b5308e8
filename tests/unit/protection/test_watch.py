"""The watch: what counts as wrong, and that an alert is raised and cleared once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.unit.protection.catalogs import MACHINE, NOW, SECOND, add_machine, add_server, fresh_catalog

from farshore.catalog import events, machines, policies, process_servers
from farshore.catalog.database import Catalog
from farshore.protection.watch import conditions, reconcile, rpo_seconds


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    made = fresh_catalog(tmp_path)
    with made.writing() as tx:
        add_server(tx)
        add_machine(tx, state="protected", newest_point_time=NOW, last_seen=NOW, heartbeat={"mode": "data"})
    yield made
    made.close()


def wrong(catalog: Catalog, now: int) -> list[str]:
    with catalog.writing() as tx:
        found = conditions(machines.every(tx), policies.every(tx), process_servers.every(tx), now)
        reconcile(tx, found, now)
        return sorted(condition.kind for condition in found)


def alive(catalog: Catalog, now: int) -> None:
    with catalog.writing() as tx:
        machines.get(tx, MACHINE).last_seen = now
        add_server(tx, now=now)


def test_all_is_well(catalog: Catalog) -> None:
    assert wrong(catalog, NOW + SECOND) == []


def test_rpo_counts_from_the_threshold_of_the_policy(catalog: Catalog) -> None:
    for late, expected in ((900, []), (901, ["rpo-exceeded"])):
        alive(catalog, NOW + late * SECOND)
        assert wrong(catalog, NOW + late * SECOND) == expected


def test_silence_is_told(catalog: Catalog) -> None:
    assert wrong(catalog, NOW + 31 * SECOND) == ["agent-silent", "process-server-silent"]


def test_an_alert_is_raised_once_and_cleared_once(catalog: Catalog) -> None:
    for seconds in (31, 33, 35):
        wrong(catalog, NOW + seconds * SECOND)
    alive(catalog, NOW + 36 * SECOND)
    wrong(catalog, NOW + 36 * SECOND)
    wrong(catalog, NOW + 37 * SECOND)
    with catalog.reading() as tx:
        assert events.open_alerts(tx) == []
        assert sorted(row.kind for row in events.listed(tx, kind="alert.")) == [
            "alert.cleared.agent-silent",
            "alert.cleared.process-server-silent",
            "alert.raised.agent-silent",
            "alert.raised.process-server-silent",
        ]


def test_trouble_of_stores_spools_and_capture_is_told(catalog: Catalog) -> None:
    with catalog.writing() as tx:
        server = process_servers.every(tx)[0]
        server.store_trouble, server.spool_limit, server.spool_bytes = "403 from the bucket", 100, 81
        machines.get(tx, MACHINE).heartbeat = {"mode": "bitmap", "mode_cause": "the ring was full"}
    assert wrong(catalog, NOW) == ["capture-degraded", "spool-filling", "store-trouble"]


def test_a_machine_that_was_failed_over_has_no_rpo(catalog: Catalog) -> None:
    with catalog.writing() as tx:
        machines.get(tx, MACHINE).state = "failed-over"
        add_server(tx, now=NOW + 9999 * SECOND)
    assert wrong(catalog, NOW + 9999 * SECOND) == []


def test_rpo_is_none_without_a_point_and_never_negative() -> None:
    assert rpo_seconds(0, NOW) is None
    assert rpo_seconds(NOW + SECOND, NOW) == 0
