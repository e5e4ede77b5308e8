"""The watch reads few machines, and finds what it would find if it read all of them in each round."""

from __future__ import annotations

import random
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.unit.protection.catalogs import NOW, SECOND, SERVER, add_machine, add_server, fresh_catalog

from farshore.catalog import events, machines, policies, process_servers
from farshore.catalog.database import Catalog, Transaction
from farshore.catalog.machines import Times, WatchedMachine
from farshore.catalog.tables import DifferenceRow, MachineRow
from farshore.configuration_server.watching import Watch
from farshore.model.policy import ReplicationPolicy
from farshore.protection.clocks import OwnClock
from farshore.protection.silence import SilenceWatch
from farshore.protection.watch import DIFFERS, conditions

OTHER = "33333333-3333-4333-8333-333333333333"
STATES = ("protected", "resync", "initial-replication", "failed-over", "unprotected")
HEARTBEATS: tuple[dict[str, Any], ...] = (
    {"mode": "data"},
    {"mode": "bitmap", "mode_cause": "the ring was full"},
    {"mode": "data", "proof": {"differing": 2}},
    {"mode": "data", "accounts": [{"disk": 0, "verdict": "blind"}]},
    {"mode": "data", "accounts": [{"verdict": "blind"}]},
    {"mode": "data", "accounts": [{"disk": 0, "verdict": "ok"}], "proof": {"differing": 0}},
    {"mode": "data", "accounts": 7},
)


class Clock:
    def __init__(self) -> None:
        self.seconds, self.offset = 0.0, NOW

    def now(self) -> int:
        return self.offset + int(self.seconds * SECOND)

    def monotonic(self) -> float:
        return self.seconds


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    made = fresh_catalog(tmp_path)
    yield made
    made.close()


def name(number: int) -> str:
    return f"00000000-0000-4000-8000-{number:012d}"


def change(tx: Transaction, row: MachineRow, dice: random.Random, now: int) -> None:
    """One thing that heartbeats, reports and operators do to a machine."""
    kind = dice.randrange(12)
    if kind < 4:
        row.last_seen = now
    elif kind < 6:  # a process server may come late with what it had
        row.newest_point_time = max(row.newest_point_time, now - dice.choice((0, 5, 80, 2000)) * SECOND)
    elif kind == 6:
        row.state = dice.choice(STATES)
    elif kind == 7:
        row.heartbeat, row.last_seen = dice.choice(HEARTBEATS), now
    elif kind == 8:
        row.stream_trouble = dice.choice(("", "", "Its key is damaged."))
    elif kind == 9:
        row.clock_behind = dice.choice((0.0, 0.0, 7.5))
    elif kind == 10:
        row.clock_stepped = dice.choice((0, now, now - 3590 * SECOND))
    else:
        row.policy = dice.choice(("default", "gold"))


@pytest.mark.parametrize("seed", range(2))
def test_alerts_are_those_of_a_watch_that_reads_all_machines(catalog: Catalog, seed: int) -> None:
    dice, clock = random.Random(seed), Clock()
    with catalog.writing() as tx:
        add_server(tx)
        policies.create(tx, ReplicationPolicy(name="gold", rpo_threshold=60))
        for number in range(8):
            add_machine(tx, id=name(number), name=f"m{number}", state="protected")
    own = OwnClock(catalog, clock)
    watch = Watch(catalog, clock, SilenceWatch(clock), own)
    raised = 0
    for _ in range(80):
        clock.seconds += dice.choice((1, 2, 2, 2, 9))
        if dice.random() < 0.03:
            clock.offset += dice.choice((-900, 40, 5000)) * SECOND
            own.look()  # as the watch does first: what comes then is by the new clock
            watch._attention.forget()
        now = clock.now()
        with catalog.writing() as tx:
            process_servers.get(tx, SERVER).last_seen = now
            for row in machines.every(tx):
                if dice.random() < 0.3:
                    change(tx, row, dice, now)
            if dice.random() < 0.05:
                policies.get(tx, "gold").rpo_threshold = dice.choice((30, 60, 600))
            if dice.random() < 0.05:
                tx.delete(machines.get(tx, dice.choice([row.id for row in machines.every(tx)])))
                add_machine(tx, id=name(dice.randrange(100, 10**6)), name=f"n{now}", state=dice.choice(STATES))
        watch.look()
        with catalog.reading() as tx:
            wanted = conditions(machines.watched(tx), policies.every(tx), process_servers.every(tx), now)
            wanted += own.conditions()
            found = {(kind, subject) for kind, subject, _ in events.open_now(tx)}
        assert found == {(one.kind, one.subject) for one in wanted}
        raised += len(found)
    assert raised > 80, "else it has compared nothing"


class Reads:
    """Counts how many machines are asked for their times, and how many are read whole."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.times = self.whole = 0
        times, watched = machines.times, machines.watched

        def counted_times(tx: Transaction, of: Collection[str]) -> dict[str, Times]:
            self.times += len(of)
            return times(tx, of)

        def counted_watched(tx: Transaction, of: Collection[str] | None = None) -> list[WatchedMachine]:
            found = watched(tx, of)
            self.whole += len(found)
            return found

        monkeypatch.setattr(machines, "times", counted_times)
        monkeypatch.setattr(machines, "watched", counted_watched)


def test_a_machine_that_is_well_is_seldom_asked_for_and_never_read(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four minutes with a heartbeat every 10 s, and one machine of which the clock is wrong."""
    clock, reads = Clock(), Reads(monkeypatch)
    with catalog.writing() as tx:
        add_server(tx)
        for number in range(20):
            add_machine(tx, id=name(number), name=f"m{number}", state="protected", heartbeat={"mode": "data"},
                        clock_behind=9.0 if number == 0 else 0.0)  # fmt: skip
    watch = Watch(catalog, clock, SilenceWatch(clock), OwnClock(catalog, clock))
    rounds = 0
    for second in range(0, 240, 2):
        clock.seconds = float(second)
        with catalog.writing() as tx:
            process_servers.get(tx, SERVER).last_seen = clock.now()
            for row in machines.every(tx):
                if second == 0 or (second // 2 + int(row.name[1:])) % 5 == 0:
                    row.last_seen = row.newest_point_time = clock.now()
        watch.look()
        rounds += 1
    with catalog.reading() as tx:
        assert [(kind, subject) for kind, subject, _ in events.open_now(tx)] == [
            ("clock-differs", f"machine/{name(0)}")
        ]
    assert reads.whole == rounds, "the one of which something is wrong, in each round"
    # Between 20 and 30 s after one question comes the next, where a round asked for each machine before.
    assert reads.times <= 20 * (240 // 20 + 1)


def test_what_makes_a_machine_late_at_once_is_seen_at_once(catalog: Catalog) -> None:
    """A stricter policy, and a first point that is old already."""
    clock = Clock()
    with catalog.writing() as tx:
        add_server(tx)
        policies.create(tx, ReplicationPolicy(name="gold", rpo_threshold=600))
        for number, newest in enumerate((NOW - 100 * SECOND, 0)):
            add_machine(tx, id=name(number), name=f"m{number}", state="protected", policy="gold", last_seen=NOW,
                        newest_point_time=newest)  # fmt: skip
    watch = Watch(catalog, clock, SilenceWatch(clock), OwnClock(catalog, clock))

    def late() -> set[str]:
        watch.look()
        with catalog.reading() as tx:
            return {subject for kind, subject, _ in events.open_now(tx) if kind == "rpo-exceeded"}

    assert late() == set()
    with catalog.writing() as tx:
        policies.get(tx, "gold").rpo_threshold = 60
    assert late() == {f"machine/{name(0)}"}
    with catalog.writing() as tx:
        machines.get(tx, name(1)).newest_point_time = NOW - 100 * SECOND
    assert late() == {f"machine/{name(0)}", f"machine/{name(1)}"}


def test_moves_are_decided_as_soon_as_one_is_due(catalog: Catalog) -> None:
    clock = Clock()
    with catalog.writing() as tx:
        for server in (SERVER, OTHER):
            add_server(tx, server)
        add_machine(tx, state="protected", last_seen=NOW, newest_point_time=NOW, process_server=SERVER)
    watch = Watch(catalog, clock, SilenceWatch(clock), OwnClock(catalog, clock))
    watch.look()
    with catalog.writing() as tx:
        assert machines.every(tx)[0].process_server == SERVER
        machines.every(tx)[0].chosen_server = OTHER
    watch.look()
    with catalog.reading() as tx:
        assert machines.every(tx)[0].process_server == OTHER


def test_an_alert_of_a_difference_says_where_it_is_as_soon_as_that_is_known(catalog: Catalog) -> None:
    """The heartbeat may come before the process server's report."""
    clock = Clock()

    def alert() -> str:
        watch.look()
        with catalog.reading() as tx:
            return next(one.message for one in events.open_alerts(tx) if one.kind == DIFFERS)

    def differed(chunk: int) -> None:
        with catalog.writing() as tx:
            tx.add(DifferenceRow(machine=name(0), disk=1, start=chunk << 16, length=65536, epoch=3, sequence=chunk,
                                 proven_epoch=0, proven_sequence=0, time=chunk, cause=f"heal {chunk}"))  # fmt: skip

    with catalog.writing() as tx:
        heartbeat = {"mode": "data", "proof": {"differing": 2}}
        add_machine(tx, id=name(0), name="m0", state="resync", last_seen=NOW, newest_point_time=NOW,
                    heartbeat=heartbeat)  # fmt: skip
    watch = Watch(catalog, clock, SilenceWatch(clock), OwnClock(catalog, clock))
    assert alert() == "2 chunks of the copy of m0 differ from its disks and are not proven equal again."
    for chunk in (1, 2):
        differed(chunk)
        where = f"disk 1, bytes {chunk * 65536} to {chunk * 65536 + 65536}, at position 3:{chunk}."
        assert alert().endswith(f"The newest: {where} The newest that could explain it: heal {chunk}.")
