"""The watch: what counts as wrong, and that an alert is raised and cleared once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.unit.protection.catalogs import MACHINE, NOW, SECOND, add_machine, add_server, fresh_catalog

from farshore.catalog import events, machines, master_targets, policies, process_servers
from farshore.catalog.database import Catalog
from farshore.catalog.tables import MasterTargetRow
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
        judged, targets = machines.watched(tx), master_targets.every(tx)
        found = conditions(judged, policies.every(tx), process_servers.every(tx), now, targets=targets)
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


@pytest.mark.parametrize(
    ("cause", "remedy"), [("command to driver", "--exclude-disk NUMBER"), ("ring full", "faster than it can send")]
)
def test_bitmap_mode_comes_with_the_remedy_of_its_cause(catalog: Catalog, cause: str, remedy: str) -> None:
    with catalog.writing() as tx:
        machines.get(tx, MACHINE).heartbeat = {"mode": "bitmap", "mode_cause": cause}
    assert wrong(catalog, NOW) == ["capture-degraded"]
    with catalog.reading() as tx:
        (alert,) = events.open_alerts(tx)
    assert cause in alert.message
    assert remedy in alert.remedy


def test_a_disk_that_the_kernel_does_not_count_is_told_until_it_does(catalog: Catalog) -> None:
    for verdict, expected in (("ok", []), ("blind", ["accounts-blind"]), ("unsettled", []), ("ok", [])):
        with catalog.writing() as tx:
            accounts = [{"disk": 0, "verdict": verdict}]
            machines.get(tx, MACHINE).heartbeat = {"mode": "data", "accounts": accounts}
        assert wrong(catalog, NOW) == expected
        with catalog.reading() as tx:
            open_now = events.open_alerts(tx)
        assert [alert.kind for alert in open_now] == expected
        for alert in open_now:
            assert "echo 1 > /sys/block/vda/queue/iostats" in alert.remedy
            assert "farshore machine resync db1" in alert.remedy


def test_a_machine_that_was_failed_over_has_no_rpo(catalog: Catalog) -> None:
    with catalog.writing() as tx:
        machines.get(tx, MACHINE).state = "failed-over"
        add_server(tx, now=NOW + 9999 * SECOND)
    assert wrong(catalog, NOW + 9999 * SECOND) == []


def test_rpo_is_none_without_a_point_and_never_negative() -> None:
    assert rpo_seconds(0, NOW) is None
    assert rpo_seconds(NOW + SECOND, NOW) == 0


def test_only_a_process_server_that_should_report_is_missed(catalog: Catalog) -> None:
    now = NOW + 60 * SECOND
    alive(catalog, now)
    with catalog.writing() as tx:
        row = add_server(tx, "33333333-3333-4333-8333-333333333333", now=NOW)
        row.draining = True
    assert wrong(catalog, now) == [], "a drained one may be stopped"
    with catalog.writing() as tx:
        row = process_servers.get(tx, row.id)
        row.spool_bytes = 1
    assert wrong(catalog, now) == ["process-server-silent"], "its spool held something"
    with catalog.writing() as tx:
        process_servers.get(tx, row.id).registered = 0
    assert wrong(catalog, now) == [], "it was invited and has not come yet"


def test_a_master_target_that_should_report_is_missed(catalog: Catalog) -> None:
    now = NOW + 60 * SECOND
    alive(catalog, now)
    with catalog.writing() as tx:
        master_targets.invite(tx, MasterTargetRow(id="m1", name="invited"))
        master_targets.invite(tx, MasterTargetRow(id="m2", name="shut-out", registered=1, revoked=True))
        master_targets.invite(tx, MasterTargetRow(id="m3", name="mt3", registered=1, last_seen=now - 15 * SECOND))
    assert wrong(catalog, now) == [], "so long a report may take"
    for number, own, remedy in (("m3", False, "farshore master-target remove mt3"), ("m4", True, "--no-master-target")):
        with catalog.writing() as tx:
            if own:
                master_targets.delete(tx, master_targets.get(tx, "m3"))
                master_targets.register(tx, number, "1", now - 15 * SECOND)
        assert wrong(catalog, now + SECOND) == ["master-target-silent"]
        with catalog.reading() as tx:
            (alert,) = events.open_alerts(tx)
        assert (alert.subject, alert.severity) == (f"master-target/{number}", "warning")
        assert remedy in alert.remedy
    with catalog.writing() as tx:
        master_targets.get(tx, "m4").last_seen = now
    assert wrong(catalog, now + 2 * SECOND) == [], "it is over once it reports"


def test_a_spool_that_takes_nothing_is_told(catalog: Catalog) -> None:
    with catalog.writing() as tx:
        process_servers.every(tx)[0].spool_trouble = "The disk is full."
    assert wrong(catalog, NOW) == ["spool-trouble"]


def test_old_events_and_alerts_are_forgotten_by_age_and_by_number(catalog: Catalog) -> None:
    for second in range(30):
        with catalog.writing() as tx:
            time = NOW + second * SECOND
            events.record(tx, time=time, kind="k", actor="a", subject="s", message=str(second))
    wrong(catalog, NOW + 31 * SECOND)
    alive(catalog, NOW + 32 * SECOND)
    wrong(catalog, NOW + 32 * SECOND)
    with catalog.writing() as tx:
        events.prune(tx, NOW + 10 * SECOND, 1000)
    with catalog.reading() as tx:
        assert [event.message for event in events.listed(tx, kind="k")] == [str(n) for n in range(10, 30)]
        assert len(events.alerts(tx)) == 2
    with catalog.writing() as tx:
        events.prune(tx, NOW + 33 * SECOND, 1000)
    with catalog.reading() as tx:
        assert len(events.listed(tx)) == 1, "the newest stays, for those who follow"
        assert events.alerts(tx) == []
    for number in range(30):
        with catalog.writing() as tx:
            events.record(tx, time=NOW, kind="k", actor="a", subject="s", message=str(number))
    with catalog.writing() as tx:
        events.prune(tx, 0, 5)
    with catalog.reading() as tx:
        assert [event.message for event in events.listed(tx)] == ["25", "26", "27", "28", "29"]


def test_one_machines_stuck_stream_is_that_machines_alert(catalog: Catalog) -> None:
    with catalog.writing() as tx:
        machines.get(tx, MACHINE).stream_trouble = "Its key is damaged. Restore it."
        alert = next(one for one in conditions(machines.watched(tx), policies.every(tx), [], NOW))
    assert (alert.kind, alert.subject) == ("stream-stuck", f"machine/{MACHINE}")
    assert "Its key is damaged." in alert.message
