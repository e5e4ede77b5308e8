"""Reports of process servers: states, points, and that repeating one changes nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import event
from tests.unit.protection.catalogs import (
    MACHINE,
    NOW,
    SECOND,
    SERVER,
    add_machine,
    add_server,
    fresh_catalog,
    request,
)

from farshore.api_types.servers import (
    DifferenceReport,
    EpochReport,
    PointReport,
    ReportAnswer,
    ServerReport,
    StreamReport,
)
from farshore.catalog import differences, epochs, events, machines, points, policies, process_servers, users
from farshore.catalog.database import Catalog
from farshore.catalog.tables import CertificateRow, EventRow, PointRow
from farshore.configuration_server.api import views
from farshore.model.point import PointKind
from farshore.protection import reports
from farshore.protection.granting import fence, grant
from farshore.protection.moving import Move, carry_out
from farshore.protection.watch import conditions


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


def test_the_answer_says_how_often_the_streams_are_to_be_stored(catalog: Catalog) -> None:
    assert report(catalog, streams=[stream()]).asked_rpo == {MACHINE: 5}
    with catalog.writing() as tx:
        policies.get(tx, "default").rpo_threshold = 2
    assert report(catalog, streams=[stream()]).asked_rpo == {MACHINE: 2}
    assert report(catalog).asked_rpo == {}


@pytest.mark.parametrize("what", ["another owner", "another domain"])
def test_a_stream_that_may_not_go_on_is_closed_though_its_epoch_is_open(catalog: Catalog, what: str) -> None:
    assert report(catalog, streams=[stream()]).closed == []
    with catalog.writing() as tx:
        if what == "another owner":
            machines.get(tx, MACHINE).site = "far"
            machines.get(tx, MACHINE).owner = "other hardware"
        else:
            policies.get(tx, "default").deduplication = "machine"
    assert [one.epoch for one in report(catalog, streams=[stream()]).closed] == [1]


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


def test_one_machine_does_not_fill_the_catalog(catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reports, "MOST_POINTS", 3)
    many = [point(20 + number, number, "app-consistent", name=f"n{number}") for number in range(5)]
    for _ in range(2):
        report(catalog, epochs=[whole()], points=many)
    with catalog.reading() as tx:
        assert points.count(tx, MACHINE) == 3
        assert tx.query(EventRow).filter(EventRow.kind == "points.not-listed").count() == 2


def test_a_point_that_takes_another_ones_id_is_left_out(catalog: Catalog) -> None:
    first, second = point(20, 0, "app-consistent", name="a", id="p"), point(21, 0, "app-consistent", name="b", id="p")
    same_place = point(20, 0, "app-consistent", name="a", id="q")
    report(catalog, epochs=[whole()], points=[first, second])
    report(catalog, points=[second, same_place])
    with catalog.reading() as tx:
        assert [(row.id, row.name) for row in points.listed(tx, MACHINE)] == [("p", "a")]


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


def test_a_process_server_speaks_for_its_own_machines_only(catalog: Catalog) -> None:
    """Any process server could declare any machine protected, and list points that are not there."""
    other = "99999999-9999-4999-8999-999999999999"
    body = {
        "url": "https://ps:9443",
        "version": "1",
        "spool_bytes": 0,
        "spool_limit": 100,
        "epochs": [whole()],
        "streams": [stream(stored=90, received=90)],
        "points": [point(20, 1.0, name="false")],
        "stuck": [],
    }
    foreign = ServerReport.model_validate(body)
    with catalog.writing() as tx:
        answer = reports.apply(tx, add_server(tx, other), foreign, NOW)
        assert [one.machine for one in answer.closed] == [MACHINE], "it has nothing to say there, and is told so"
        reports.apply(tx, add_server(tx, other), foreign, NOW + SECOND)
    with catalog.reading() as tx:
        machine, epoch = machines.get(tx, MACHINE), epochs.get(tx, MACHINE, 1)
        assert (machine.state, machine.newest_point_time) == ("initial-replication", 0)
        assert (epoch.consistent, epoch.stored, epoch.received) == (False, 0, 0)
        assert points.listed(tx, MACHINE) == []
        told = [one for one in events.listed(tx) if one.kind == "process-server.overstepped"]
        assert len(told) == 1, "a report is repeated every second; the event is not"
        assert "db1" in told[0].message
        found = conditions([machine], policies.every(tx), process_servers.every(tx), NOW + SECOND)
        assert ("process-server-overstepped", f"process-server/{other}") in {(one.kind, one.subject) for one in found}
        later = conditions([machine], policies.every(tx), process_servers.every(tx), NOW + 3600 * SECOND)
        assert "process-server-overstepped" not in {one.kind for one in later}


OTHER = "99999999-9999-4999-8999-999999999999"


def move_away(catalog: Catalog) -> None:
    with catalog.writing() as tx:
        add_server(tx, OTHER)
        carry_out(tx, Move(MACHINE, OTHER, at_once=True, reason="the server does not report"), NOW)


def test_a_process_server_reports_what_it_still_holds_of_an_epoch_that_was_moved(catalog: Catalog) -> None:
    report(catalog, epochs=[whole()], streams=[stream()])
    move_away(catalog)
    report(catalog, streams=[stream(stored=45)], points=[point(45, 1.0, name="late")])
    with catalog.reading() as tx:
        epoch = epochs.get(tx, MACHINE, 1)
        assert (epoch.process_server, epoch.served_before, epoch.stored) == (OTHER, [SERVER], 45)
        assert [one.name for one in points.listed(tx, MACHINE)] == ["late"]


def test_a_former_process_server_does_not_speak_for_the_running_epoch(catalog: Catalog) -> None:
    """It could make a machine look protected, stored and recent while the present server knows better."""
    report(catalog, streams=[stream(stored=40, received=50, stored_time=NOW - 100 * SECOND)])
    move_away(catalog)
    lies = {
        "streams": [stream(stored=90, received=90, stored_time=NOW, stored_age=0.0)],
        "points": [
            point(49, 1.0, name="what it had"),
            point(70, 1.0, name="what it cannot know", kind="app-consistent"),
        ],
        "epochs": [whole()],
    }
    report(catalog, **lies)
    with catalog.reading() as tx:
        machine, epoch = machines.get(tx, MACHINE), epochs.get(tx, MACHINE, 1)
        assert (epoch.received, epoch.stored) == (50, 50), "no more than it had received itself"
        assert (machine.state, machine.newest_point_time, machine.last_app_consistent) == ("initial-replication", 0, 0)
        assert [one.name for one in points.listed(tx, MACHINE)] == ["what it had"]

    def present(**values: object) -> None:
        body = {"url": "https://ps:9443", "version": "1", "spool_bytes": 0, "spool_limit": 100, **values}
        with catalog.writing() as tx:
            reports.apply(tx, add_server(tx, OTHER), ServerReport.model_validate(body), NOW)

    # The present one reads in the vault what it goes on from, and speaks for itself from then on.
    present(streams=[stream(stored=50, received=95)], epochs=[whole()])
    report(catalog, streams=[stream(stored=95, received=99)], points=[point(94, 1.0, name="not there")])
    with catalog.reading() as tx:
        machine, epoch = machines.get(tx, MACHINE), epochs.get(tx, MACHINE, 1)
        assert (epoch.received, epoch.stored, machine.state) == (95, 50, "protected")
        assert [one.name for one in points.listed(tx, MACHINE)] == ["what it had"]
        assert not [one for one in events.listed(tx) if one.kind == "process-server.overstepped"]


def test_an_epoch_that_the_present_one_stands_on_is_no_strangers(catalog: Catalog) -> None:
    """A server opens the parent of its epoch, which another one took, and so it is in its reports."""
    with catalog.writing() as tx:
        grant(tx, machines.get(tx, MACHINE), request(run="r2"), add_server(tx, OTHER), NOW)
        body = {"url": "u", "version": "1", "spool_bytes": 0, "spool_limit": 9, "streams": [stream(stored=90)]}
        answer = reports.apply(tx, add_server(tx, OTHER), ServerReport.model_validate(body), NOW)
        assert [one.epoch for one in answer.closed] == [1]
        assert epochs.get(tx, MACHINE, 1).stored == 0
        assert not [one for one in events.listed(tx) if one.kind == "process-server.overstepped"]


def test_a_difference_is_noted_once_and_marks_the_points_since_the_last_proof(catalog: Catalog) -> None:
    found = DifferenceReport(
        machine=MACHINE,
        disk=0,
        start=65536,
        length=65536,
        epoch=1,
        sequence=40,
        proven_epoch=1,
        proven_sequence=20,
        time=NOW,
        cause="epoch 1 healed",
    )
    foreign = found.model_copy(update={"machine": "00000000-0000-4000-8000-00000000dead"})
    for _ in range(2):
        report(catalog, differences=[found, foreign])
    with catalog.reading() as tx:
        assert [one.sequence for one in differences.listed(tx, MACHINE)] == [40]
        told = [one for one in events.listed(tx) if one.kind == "copy.differs"]
        assert len(told) == 1
        assert "bytes 65536 to 131072, position 1:40" in told[0].message
        assert "epoch 1 healed" in told[0].message
        listed = differences.listed(tx, MACHINE)
        assert [bool(differences.affecting(listed, 1, sequence)) for sequence in (20, 21, 40, 41)] == [
            False,
            True,
            True,
            False,
        ]


def test_what_is_marked_up_to_the_healing_is_one_difference(catalog: Catalog) -> None:
    """It is reported where it was found, and once more right before the record that heals it."""
    found = DifferenceReport(
        machine=MACHINE,
        disk=0,
        start=65536,
        length=65536,
        epoch=1,
        sequence=40,
        proven_epoch=1,
        proven_sequence=20,
        time=NOW,
        cause="a heal",
    )
    report(catalog, differences=[found])
    report(catalog, differences=[found.model_copy(update={"sequence": 55})])
    with catalog.reading() as tx:
        assert len(events.listed(tx, kind="copy.differs")) == 1
        listed, row = differences.listed(tx, MACHINE), {"machine": MACHINE, "epoch": 1, "time": NOW, "name": ""}
        shown = [
            views.point(PointRow(id="p", sequence=at, kind="crash-consistent", pinned=False, **row), listed).doubts
            for at in (20, 30, 50, 55, 56)
        ]
    place = ["disk 0, bytes 65536 to 131072"]
    assert shown == [[], place, place, place, []], "and each is said once"
    report(catalog, differences=[found.model_copy(update={"sequence": 90, "proven_sequence": 60})])
    with catalog.reading() as tx:
        assert len(events.listed(tx, kind="copy.differs")) == 2, "it was proven in between: another one"


def many_protected(catalog: Catalog) -> list[str]:
    """MACHINE and twenty others, each with an epoch that is whole."""
    others = [f"00000000-0000-0000-0001-{number:012d}" for number in range(20)]
    with catalog.writing() as tx:
        for number, other in enumerate(others):
            row = add_machine(tx, id=other, name=f"m{number}", hardware_id="")
            grant(tx, row, request(), add_server(tx), NOW)
    everybody = [MACHINE, *others]
    report(catalog, epochs=[whole().model_copy(update={"machine": one}) for one in everybody])
    return everybody


def statements(catalog: Catalog) -> list[str]:
    """What the database is asked from now on."""
    asked: list[str] = []
    event.listen(catalog.engine, "before_cursor_execute", lambda *call: asked.append(call[2]))
    return asked


def test_many_streams_ask_the_catalog_no_more_than_one(catalog: Catalog) -> None:
    """A report comes every second; nothing of this one is to be listed, as it is seldom."""
    everybody = many_protected(catalog)
    report(catalog, points=[point(20, 0).model_copy(update={"machine": one}) for one in everybody])
    asked, counts = statements(catalog), []
    for number, some in enumerate(([MACHINE], everybody), start=1):
        asked.clear()
        report(
            catalog,
            streams=[stream(machine=one, stored=50 * number) for one in some],
            points=[point(20 + number, number).model_copy(update={"machine": one}) for one in some],
        )
        counts.append(len(asked))
    assert counts[1] < counts[0] + 5, "a few that differ in what they change, and none for each stream"


def test_new_points_of_many_machines_are_listed_in_a_few_statements(catalog: Catalog) -> None:
    everybody = many_protected(catalog)
    asked, counts = statements(catalog), []
    for number, some in enumerate(([MACHINE], everybody), start=1):
        asked.clear()
        report(catalog, points=[point(20 + number, 60 * number).model_copy(update={"machine": one}) for one in some])
        counts.append(len(asked))
    with catalog.reading() as tx:
        assert points.counts(tx, everybody) == {MACHINE: 2, **dict.fromkeys(everybody[1:], 1)}
    assert counts[1] < counts[0] + 5, "none for each machine"


def test_a_machine_that_a_report_tells_trouble_of_is_notable_until_it_is_over(catalog: Catalog) -> None:
    def notable() -> bool:
        with catalog.reading() as tx:
            return machines.get(tx, MACHINE).notable

    report(catalog, streams=[stream()])
    with catalog.writing() as tx:
        machines.get(tx, MACHINE).heartbeat = {"mode": "data"}
    assert not notable()
    report(catalog, streams=[stream(clock_behind=60.0)])
    assert notable()
    report(catalog, streams=[stream(clock_behind=60.0, stored=51)])
    assert notable(), "nothing that is judged has changed"
    report(catalog, streams=[stream()])
    assert not notable()
    report(catalog, streams=[stream()], stuck=[{"machine": MACHINE, "epoch": 1, "trouble": "a frame is damaged"}])
    assert notable()
