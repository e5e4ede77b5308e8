"""RPO and alerts while clocks are set: the machine's, the process server's and ours."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.unit.mobility.doubles import FakeClock
from tests.unit.protection.catalogs import MACHINE, SECOND, add_machine, add_server, fresh_catalog, request

from farshore.api_types.clocks import ClockStanding
from farshore.api_types.machines import Heartbeat
from farshore.api_types.servers import EpochReport, PointReport, ServerReport, StreamReport
from farshore.catalog import events, machines, points, policies, process_servers
from farshore.catalog.database import Catalog
from farshore.catalog.tables import PointRow
from farshore.protection import heartbeats, reports
from farshore.protection.clocks import OwnClock
from farshore.protection.granting import grant
from farshore.protection.watch import conditions, rpo_seconds

HOUR = 3600


class Installation:
    """A machine that is protected, its process server and the configuration server, whose clock this is."""

    def __init__(self, catalog: Catalog) -> None:
        self.catalog = catalog
        self.clock = FakeClock()
        self.own = OwnClock(catalog, self.clock)
        with catalog.writing() as tx:
            machine = add_machine(tx)
            grant(tx, machine, request(), add_server(tx, now=self.clock.wall), self.clock.wall)
        self.report(age=1.0, epochs=[EpochReport(machine=MACHINE, epoch=1, consistent_from=1, time=self.clock.wall)])

    def report(self, *, age: float | None, label: int | None = None, sequence: int = 40, **more: object) -> None:
        """What the process server says; ``label``: what the newest stored record's time is called."""
        time = self.clock.wall if label is None else label
        stream = StreamReport(
            machine=MACHINE, epoch=1, received=sequence, stored=sequence, stored_time=time, spooled_bytes=0,
            lag_spool=0, lag_seal=0, lag_store=0, stored_age=age, clock_behind=float(str(more.pop("clock_behind", 0))),
        )  # fmt: skip
        point = PointReport(machine=MACHINE, epoch=1, sequence=sequence, time=time, kind="crash-consistent")
        body = {"url": "https://ps:9443", "version": "1", "spool_bytes": 0, "spool_limit": 100, **more}
        with self.catalog.writing() as tx:
            server = process_servers.every(tx)[0]
            told = ServerReport.model_validate({**body, "streams": [stream], "points": [point]})
            reports.apply(tx, server, told, self.clock.wall)

    def beat(self, steps: int, last: float, age: float = 0.0) -> None:
        with self.catalog.writing() as tx:
            machine = machines.get(tx, MACHINE)
            clock = ClockStanding(steps=steps, last=last, age=age)
            heartbeats.observe(tx, machine, Heartbeat(run=machine.run, version="1", clock=clock), self.clock.wall)

    def rpo(self) -> float | None:
        self.own.look()
        with self.catalog.reading() as tx:
            return rpo_seconds(machines.get(tx, MACHINE).newest_point_time, self.clock.wall)

    def wrong(self) -> set[str]:
        self.own.look()
        with self.catalog.reading() as tx:
            found = conditions(machines.every(tx), policies.every(tx), process_servers.every(tx), self.clock.wall)
            return {one.kind for one in [*found, *self.own.conditions()]}

    def events(self, kind: str) -> int:
        with self.catalog.reading() as tx:
            return len(events.listed(tx, kind=kind))

    def listed(self) -> list[PointRow]:
        with self.catalog.reading() as tx:
            return points.listed(tx, MACHINE)

    def set_clock(self, seconds: float) -> None:
        self.clock.wall += int(seconds * SECOND)


@pytest.fixture
def installation(tmp_path: Path) -> Iterator[Installation]:
    catalog = fresh_catalog(tmp_path)
    yield Installation(catalog)
    catalog.close()


def test_the_rpo_grows_though_the_times_that_arrived_lie_ahead(installation: Installation) -> None:
    installation.report(age=1.0, label=installation.clock.wall + 2 * HOUR * SECOND)
    assert installation.rpo() == pytest.approx(1.0)
    installation.clock.move(1000)
    assert installation.rpo() == pytest.approx(1001.0)
    assert "rpo-exceeded" in installation.wrong()


def test_the_rpo_grows_though_an_older_process_server_tells_no_ages(installation: Installation) -> None:
    installation.report(age=None, label=installation.clock.wall + 2 * HOUR * SECOND)
    installation.clock.move(1000)
    assert installation.rpo() == pytest.approx(1000.0)


def test_a_backlog_that_arrives_late_is_as_old_as_it_is(installation: Installation) -> None:
    installation.clock.move(3000)
    installation.report(age=2000.0, sequence=50)
    assert installation.rpo() == pytest.approx(2000.0)
    installation.report(age=5.0, sequence=60)
    assert installation.rpo() == pytest.approx(5.0)


@pytest.mark.parametrize("step", [2 * HOUR, -2 * HOUR, -10 * 365 * 24 * HOUR])
def test_a_step_of_our_own_clock_changes_no_rpo_and_is_told(installation: Installation, step: int) -> None:
    installation.clock.move(100)
    installation.set_clock(step)
    assert installation.rpo() == pytest.approx(101.0)
    assert "server-clock-stepped" in installation.wrong()
    assert installation.events("server.clock-stepped") == 1
    installation.clock.move(1000)
    assert installation.rpo() == pytest.approx(1101.0)
    assert {"rpo-exceeded", "process-server-silent"} <= installation.wrong()
    installation.report(age=2.0, sequence=50)
    assert installation.rpo() == pytest.approx(2.0)
    installation.clock.move(HOUR + 1)
    assert "server-clock-stepped" not in installation.wrong()


def test_what_was_noted_after_a_step_and_before_it_was_seen_stays(installation: Installation) -> None:
    for step in (2 * HOUR, -2 * HOUR):
        installation.set_clock(step)
        installation.report(age=3.0, sequence=50)
        assert installation.rpo() == pytest.approx(3.0)
        assert "process-server-silent" not in installation.wrong()


def test_a_start_with_a_clock_that_went_back_ages_everything_from_now_on(installation: Installation) -> None:
    installation.set_clock(-2 * HOUR)
    installation.own = OwnClock(installation.catalog, installation.clock)
    installation.own.begin()
    assert installation.rpo() == 0
    assert "server-clock-stepped" in installation.wrong()
    installation.clock.move(1000)
    assert installation.rpo() == pytest.approx(1000.0)
    assert installation.events("server.clock-stepped") == 1


def test_a_machines_step_is_an_event_and_an_alert_for_an_hour(installation: Installation) -> None:
    installation.beat(0, 0)
    assert "clock-stepped" not in installation.wrong()
    for _ in range(3):
        installation.beat(1, 7200.0, age=1.0)
    assert "clock-stepped" in installation.wrong()
    assert installation.events("machine.clock-stepped") == 1
    installation.beat(2, -7200.0)
    assert installation.events("machine.clock-stepped") == 2
    installation.clock.move(HOUR)
    assert "clock-stepped" not in installation.wrong()


def test_a_clock_that_stays_wrong_is_an_alert_until_it_is_right(installation: Installation) -> None:
    installation.report(age=1.0, sequence=41, clock_behind=-7200.0)
    assert "clock-differs" in installation.wrong()
    installation.report(age=1.0, sequence=42, clock_behind=0)
    assert "clock-differs" not in installation.wrong()


def test_a_process_servers_step_is_an_event_and_an_alert(installation: Installation) -> None:
    for _ in range(3):
        installation.report(age=1.0, clock=ClockStanding(steps=1, last=-60.0, age=2.0))
    assert "process-server-clock-stepped" in installation.wrong()
    assert installation.events("process-server.clock-stepped") == 1
    installation.report(age=1.0, clock=ClockStanding())
    assert "process-server-clock-stepped" not in installation.wrong()


def test_points_are_listed_in_the_order_of_the_stream_across_a_step_back(installation: Installation) -> None:
    start = installation.clock.wall
    for sequence, time in ((50, start + 2 * HOUR * SECOND), (60, start + 10 * SECOND), (70, start + 20 * SECOND)):
        installation.report(age=1.0, sequence=sequence, label=time)
    assert [row.sequence for row in installation.listed()] == [70, 60, 50, 40]
