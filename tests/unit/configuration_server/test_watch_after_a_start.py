"""After a start of the configuration server nobody is late for what passed while it did not run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.unit.protection.catalogs import MACHINE, NOW, SECOND, add_machine, add_server, fresh_catalog

from farshore.catalog import events, machines, master_targets, process_servers
from farshore.catalog.database import Catalog
from farshore.configuration_server.watching import SETTLE_SECONDS, Watch
from farshore.protection.clocks import OwnClock
from farshore.protection.silence import SilenceWatch

LOST = "99999999-9999-4999-8999-999999999999"
AWAY = 3600.0


class Clock:
    seconds = 0.0

    def now(self) -> int:
        return NOW + int(self.seconds * SECOND)

    def monotonic(self) -> float:
        return self.seconds


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    """As a server left it that heard a machine at its end; another one was silent long before."""
    made = fresh_catalog(tmp_path)
    with made.writing() as tx:
        add_server(tx, now=NOW)
        add_machine(tx, state="protected", newest_point_time=NOW, last_seen=NOW)
        master_targets.register(tx, LOST, "1", NOW)
        old = NOW - 7200 * SECOND
        add_machine(tx, id=LOST, name="lost", state="protected", newest_point_time=old, last_seen=old)
    yield made
    made.close()


def started(catalog: Catalog, clock: Clock, *, begin: bool = True) -> Watch:
    clock.seconds = AWAY
    watch = Watch(catalog, clock, SilenceWatch(clock), OwnClock(catalog, clock))
    if begin:
        watch.begin()
    return watch


def alerts(catalog: Catalog) -> set[str]:
    with catalog.reading() as tx:
        return {f"{kind} {'lost' if LOST in subject else ''}".strip() for kind, subject, _ in events.open_now(tx)}


EARLIER = {"agent-silent lost", "rpo-exceeded lost"}
LATE = {*EARLIER, "agent-silent", "rpo-exceeded", "process-server-silent", "master-target-silent lost"}


def test_who_comes_back_was_never_late(catalog: Catalog) -> None:
    clock = Clock()
    watch = started(catalog, clock)
    watch.look()
    assert alerts(catalog) == EARLIER, "what was wrong before is told as before"
    clock.seconds += SETTLE_SECONDS - 1
    watch.look()
    assert alerts(catalog) == EARLIER
    with catalog.writing() as tx:
        process_servers.every(tx)[0].last_seen = clock.now()
        master_targets.get(tx, LOST).last_seen = clock.now()
        machine = machines.get(tx, MACHINE)
        machine.last_seen = machine.newest_point_time = clock.now()
    clock.seconds += 2
    watch.look()
    assert alerts(catalog) == EARLIER
    with catalog.reading() as tx:
        assert not [row for row in events.listed(tx) if row.kind.startswith("alert.cleared")]


def test_who_stays_away_is_told_once_everybody_had_the_time(catalog: Catalog) -> None:
    clock = Clock()
    watch = started(catalog, clock)
    watch.look()
    clock.seconds += SETTLE_SECONDS
    watch.look()
    assert alerts(catalog) == LATE


def test_the_control_without_it_a_restart_raises_them(catalog: Catalog) -> None:
    started(catalog, Clock(), begin=False).look()
    assert alerts(catalog) == LATE


def test_who_was_never_heard_is_judged_at_once(catalog: Catalog) -> None:
    """As after an adoption: what the vault tells of points is old, and nobody is waited for."""
    with catalog.writing() as tx:
        for row in (*machines.every(tx), *process_servers.every(tx), *master_targets.every(tx)):
            row.last_seen = 0
    started(catalog, Clock()).look()
    assert {"rpo-exceeded", "rpo-exceeded lost"} <= alerts(catalog)
