"""Reports of process servers: states, points, and that repeating one changes nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.unit.protection.catalogs import MACHINE, NOW, SECOND, add_machine, add_server, fresh_catalog, request

from farshore.api_types.servers import EpochReport, PointReport, ReportAnswer, ServerReport, StreamReport
from farshore.catalog import epochs, events, machines, points, users
from farshore.catalog.database import Catalog
from farshore.catalog.tables import CertificateRow
from farshore.model.point import PointKind
from farshore.protection import reports
from farshore.protection.granting import fence, grant


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    made = fresh_catalog(tmp_path)
    with made.writing() as tx:
        machine = add_machine(tx)
        grant(tx, machine, request(), add_server(tx), NOW)
    yield made
    made.close()


def report(catalog: Catalog, *, now: int = NOW, **values: object) -> ReportAnswer:
    body = {"url": "https://ps:9443", "version": "0.1.0", "spool_bytes": 0, "spool_limit": 100, **values}
    with catalog.writing() as tx:
        return reports.apply(tx, add_server(tx), ServerReport.model_validate(body), now)


def stream(**values: object) -> StreamReport:
    fields = {
        "machine": MACHINE,
        "epoch": 1,
        "received": 50,
        "stored": 40,
        "stored_time": NOW,
        "spooled_bytes": 0,
        "lag_spool": 0.1,
        "lag_seal": 0.2,
        "lag_store": 0.3,
        **values,
    }
    return StreamReport.model_validate(fields)


def whole(consistent_from: int = 10) -> EpochReport:
    return EpochReport(machine=MACHINE, epoch=1, consistent_from=consistent_from, time=NOW)


def point(sequence: int, seconds: float, kind: str = "crash-consistent", **values: str) -> PointReport:
    time = NOW + int(seconds * SECOND)
    return PointReport(machine=MACHINE, epoch=1, sequence=sequence, time=time, kind=kind, **values)


def test_the_answer_names_the_certificates_that_are_good(catalog: Catalog) -> None:
    with catalog.writing() as tx:
        for serial, subject, revoked, expires in (
            ("a", MACHINE, 0, NOW + 1),
            ("b", MACHINE, NOW, NOW + 1),
            ("c", MACHINE, 0, NOW),
            ("d", "another", 0, NOW + 1),
            ("e", MACHINE, 0, NOW + 2),
        ):
            row = CertificateRow(
                serial=serial, kind="machine", subject=subject, issued=0, expires=expires, revoked=revoked
            )
            users.record_certificate(tx, row)
    assert report(catalog, streams=[stream()]).certificates == {MACHINE: ["a", "e"]}
    assert report(catalog).certificates == {}


def test_a_whole_epoch_makes_the_machine_protected_once(catalog: Catalog) -> None:
    report(catalog, epochs=[whole()])
    report(catalog, epochs=[whole()])
    with catalog.reading() as tx:
        assert machines.get(tx, MACHINE).state == "protected"
        assert len(events.listed(tx, kind="machine.protected")) == 1


def test_an_epoch_that_was_overtaken_protects_nothing(catalog: Catalog) -> None:
    with catalog.writing() as tx:
        grant(tx, machines.get(tx, MACHINE), request(run="run-2"), add_server(tx), NOW)
    report(catalog, epochs=[whole()])
    with catalog.reading() as tx:
        assert machines.get(tx, MACHINE).state == "initial-replication"
        assert epochs.get(tx, MACHINE, 1).consistent


def test_points_before_the_copy_was_whole_are_not_listed(catalog: Catalog) -> None:
    report(catalog, points=[point(20, 0)])
    report(catalog, epochs=[whole(10)], points=[point(9, 1), point(10, 2)])
    with catalog.reading() as tx:
        assert [row.sequence for row in points.listed(tx, MACHINE)] == [10]


def test_crash_consistent_points_are_thinned_in_the_index_and_others_never(catalog: Catalog) -> None:
    segment_ends = [point(20 + number, number * 0.5) for number in range(41)]
    named = [point(200, 1.1, "app-consistent", id="named", name="before upgrade")]
    later = NOW + 30 * SECOND
    report(catalog, now=later, epochs=[whole()], points=segment_ends + named)
    report(catalog, now=later, points=segment_ends + named)  # a report that is repeated lists no more
    with catalog.reading() as tx:
        crash = points.listed(tx, MACHINE, kind=PointKind.CRASH_CONSISTENT)
        times = [(row.time - NOW) / SECOND for row in reversed(crash)]
        assert times == [0, 5, 10, 15, 20]
        assert [row.id for row in points.listed(tx, MACHINE, name="before upgrade")] == ["named"]
        assert machines.get(tx, MACHINE).newest_point_time == NOW + 20 * SECOND


def test_the_newest_point_is_as_new_as_what_is_stored(catalog: Catalog) -> None:
    report(catalog, streams=[stream(stored_time=NOW)])
    with catalog.reading() as tx:
        assert machines.get(tx, MACHINE).newest_point_time == 0
    report(catalog, epochs=[whole()], streams=[stream(stored_time=NOW - SECOND)])
    with catalog.reading() as tx:
        assert machines.get(tx, MACHINE).newest_point_time == NOW - SECOND
        assert machines.get(tx, MACHINE).lag == {"spool": 0.1, "seal": 0.2, "store": 0.3}


def test_what_is_reported_never_goes_back(catalog: Catalog) -> None:
    report(catalog, streams=[stream(received=50, stored=40)])
    report(catalog, streams=[stream(received=30, stored=20)])
    with catalog.reading() as tx:
        row = epochs.get(tx, MACHINE, 1)
        assert (row.received, row.stored) == (50, 40)
        assert not epochs.is_drained(row, since=0)


def test_a_closed_or_unknown_stream_is_named_in_the_answer(catalog: Catalog) -> None:
    assert report(catalog, streams=[stream()]).closed == []
    with catalog.writing() as tx:
        fence(tx, machines.get(tx, MACHINE), NOW, "test")
    other = "33333333-3333-4333-8333-333333333333"
    answer = report(catalog, streams=[stream(received=60, stored=60), stream(machine=other)])
    assert [(one.machine, one.epoch) for one in answer.closed] == [(MACHINE, 1), (other, 1)]
    with catalog.reading() as tx:
        assert epochs.is_drained(epochs.get(tx, MACHINE, 1), since=0), "what came before the fence still counts"


def test_what_is_stuck_is_told_of_its_machine_until_it_is_not(catalog: Catalog) -> None:
    stuck = [{"machine": MACHINE, "epoch": 1, "trouble": "Its key is damaged. Restore it."}]
    for told, expected in ((stuck, "Its key is damaged. Restore it."), ([], "")):
        report(catalog, stuck=told)
        with catalog.reading() as tx:
            assert machines.get(tx, MACHINE).stream_trouble == expected


def test_the_lag_of_a_stream_that_is_not_reported_is_not_known(catalog: Catalog) -> None:
    report(catalog, streams=[stream()])
    report(catalog, streams=[])
    with catalog.reading() as tx:
        assert machines.get(tx, MACHINE).lag == {}
