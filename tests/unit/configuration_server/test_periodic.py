"""Background work outlives whatever it meets, and says so."""

from __future__ import annotations

import logging
import threading
from pathlib import Path

import pytest
from tests.unit.configuration_server.offices import MovableClock
from tests.unit.protection.catalogs import MACHINE, add_machine, add_server, fresh_catalog

from farshore.catalog import events, machines
from farshore.configuration_server.periodic import FAILING, Periodic, Troubles
from farshore.configuration_server.watching import Watch, tell
from farshore.model.errors import TryLater
from farshore.protection.clocks import OwnClock
from farshore.protection.silence import SilenceWatch
from farshore.protection.watch import AlertCondition
from farshore.telemetry import logs


def test_a_round_goes_on_after_any_error_and_an_alert_tells(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """One odd text ended the watch's thread for good: no alerts any more, no moving of machines."""
    catalog, clock = fresh_catalog(tmp_path), MovableClock()
    troubles = Troubles(lambda condition: tell(catalog, clock, condition))
    rounds, third = 0, threading.Event()

    def work() -> None:
        nonlocal rounds
        rounds += 1
        if rounds == 3:
            third.set()
        raise UnicodeEncodeError("utf-8", "\ud800", 0, 1, "surrogates not allowed")

    each = Periodic("The watch", 0.001, work, troubles)
    each.start()
    assert third.wait(30)
    each.stop(30)
    assert "The watch failed; it will be tried again." in caplog.text
    with catalog.reading() as tx:
        (alert,) = events.open_alerts(tx)
    assert (alert.kind, alert.subject) == (FAILING, "server/The watch")
    assert "UnicodeEncodeError" in alert.message
    well = Periodic("The watch", 1, lambda: None, troubles)
    well.round()
    Watch(catalog, clock, SilenceWatch(clock), OwnClock(catalog, clock)).look(troubles.conditions())
    with catalog.reading() as tx:
        assert events.open_alerts(tx) == []
    catalog.close()


def test_what_may_pass_is_an_alert_only_when_it_comes_again_and_again() -> None:
    told: list[AlertCondition] = []
    troubles = Troubles(told.append)

    def work() -> None:
        raise TryLater("The store is away.", remedy="Wait.")

    each = Periodic("Sweeping", 1, work, troubles)
    each.round()
    each.round()
    assert told == []
    each.round()
    assert len(told) == 1


def test_an_alert_that_cannot_be_raised_ends_nothing() -> None:
    def broken(_condition: AlertCondition) -> None:
        raise RuntimeError("no database")

    each = Periodic("Sweeping", 1, lambda: 1 / 0, Troubles(broken))
    each.round()
    each.round()


def test_one_odd_machine_does_not_blind_the_watch_to_others(tmp_path: Path) -> None:
    catalog, clock = fresh_catalog(tmp_path), MovableClock()
    other = "33333333-3333-4333-8333-333333333333"
    with catalog.writing() as tx:
        add_server(tx)
        add_machine(tx, state="protected", heartbeat={"accounts": [{"verdict": "blind"}]})
        add_machine(tx, id=other, name="db2", state="protected", last_seen=1)
    Watch(catalog, clock, SilenceWatch(clock), OwnClock(catalog, clock)).look()
    with catalog.reading() as tx:
        assert {(one.kind, one.subject) for one in events.open_alerts(tx)} >= {
            ("watch-failing", f"machine/{MACHINE}"),
            ("agent-silent", f"machine/{other}"),
        }
        assert machines.get(tx, MACHINE).state == "protected"
    catalog.close()


def test_a_thread_that_ends_by_an_error_is_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    kept, root = threading.excepthook, logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        logs.configure("test")
        root.handlers[:] = handlers
        thread = threading.Thread(target=lambda: 1 / 0, name="somebody")
        thread.start()
        thread.join()
    finally:
        threading.excepthook = kept
        root.handlers[:] = handlers
        root.setLevel(level)
    assert "The thread somebody has ended by an error." in caplog.text
    assert "ZeroDivisionError" in caplog.text
