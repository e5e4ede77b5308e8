"""Machines move between process servers: who, where to, when at once and when by a hand-over."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.unit.protection.catalogs import MACHINE, NOW, SECOND, add_machine, add_server, fresh_catalog, request

from farshore.api_types.servers import ReportAnswer, ServerReport, StreamName
from farshore.catalog import epochs, events, machines, process_servers
from farshore.catalog.database import Catalog
from farshore.catalog.tables import MachineRow, ProcessServerRow
from farshore.model.errors import Moved
from farshore.protection import moving, reports
from farshore.protection.granting import grant
from farshore.protection.moving import Move, decide
from farshore.protection.silence import LEAST_LOOKS, SilenceWatch

A, B = "aaaaaaaa-0000-4000-8000-000000000000", "bbbbbbbb-0000-4000-8000-000000000000"


def server(name: str, **values: object) -> ProcessServerRow:
    fields = {
        "id": name, "name": name, "url": name, "last_seen": NOW, "registered": 1, "spool_bytes": 0, "spool_limit": 10,
        "store_trouble": "", "draining": False,
    }  # fmt: skip
    return ProcessServerRow(**{**fields, **values})


def machine(name: str, at: str, **values: object) -> MachineRow:
    return MachineRow(
        **{"id": name, "name": name, "process_server": at, "moving_to": "", "chosen_server": "", **values}
    )


def test_nothing_moves_while_all_is_well() -> None:
    assert decide([machine("m", "a")], [server("a"), server("b")], {"m"}, set(), NOW) == []


def test_a_drained_servers_machines_are_spread_over_the_others_by_hand_over() -> None:
    all_machines = [machine(name, "a") for name in "mnop"] + [machine("q", "b")]
    servers = [server("a", draining=True), server("b"), server("c")]
    moves = decide(all_machines, servers, {"m", "n", "o", "p"}, set(), NOW)
    assert [move.target for move in moves] == ["c", "b", "c", "b"]
    assert not any(move.at_once for move in moves)


def test_no_hand_over_begins_while_the_store_is_in_trouble() -> None:
    servers = [server("a", draining=True, store_trouble="503"), server("b")]
    assert decide([machine("m", "a")], servers, {"m"}, set(), NOW) == []


def test_a_hand_over_that_has_begun_is_not_begun_again() -> None:
    servers = [server("a", draining=True), server("b"), server("c")]
    assert decide([machine("m", "a", moving_to="c")], servers, {"m"}, set(), NOW) == []


def test_a_dead_servers_machines_move_at_once_even_out_of_a_hand_over() -> None:
    servers = [server("a", draining=True), server("b")]
    (move,) = decide([machine("m", "a", moving_to="b")], servers, {"m"}, {"a"}, NOW)
    assert (move.target, move.at_once) == ("b", True)


def test_a_machine_without_a_stream_moves_at_once() -> None:
    (move,) = decide([machine("m", "a")], [server("a", draining=True), server("b")], set(), set(), NOW)
    assert move.at_once


@pytest.mark.parametrize("other", [{"last_seen": NOW - 16 * SECOND}, {"spool_bytes": 10}, {"draining": True}])
def test_where_no_other_is_well_machines_stay_and_what_was_begun_is_called_off(other: dict[str, object]) -> None:
    servers = [server("a", draining=True), server("b", **other)]
    assert decide([machine("m", "a")], servers, {"m"}, set(), NOW) == []
    (off,) = decide([machine("m", "a", moving_to="b")], servers, {"m"}, set(), NOW)
    assert off.target is None


def test_a_drain_that_is_called_off_leaves_the_machine() -> None:
    (off,) = decide([machine("m", "a", moving_to="b")], [server("a"), server("b")], {"m"}, set(), NOW)
    assert off.target is None


def test_a_machine_goes_where_the_operator_chose_and_waits_for_it_elsewhere_while_it_is_not_well() -> None:
    chosen = machine("m", "a", chosen_server="b")
    (move,) = decide([chosen], [server("a"), server("b"), server("c")], {"m"}, set(), NOW)
    assert move.target == "b"
    assert decide([chosen], [server("a"), server("b", last_seen=0)], {"m"}, {"b"}, NOW) == []


# With a catalog


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    made = fresh_catalog(tmp_path)
    with made.writing() as tx:
        row = add_machine(tx)
        here = add_server(tx, A)
        add_server(tx, B)
        grant(tx, row, request(), here, NOW)
    yield made
    made.close()


def carry_out(catalog: Catalog, target: str | None, *, at_once: bool = False) -> None:
    with catalog.writing() as tx:
        moving.carry_out(tx, Move(MACHINE, target, at_once, "process server a does not report"), NOW)


def report(catalog: Catalog, by: str, *released: tuple[str, int]) -> ReportAnswer:
    names = [StreamName(machine=one, epoch=epoch) for one, epoch in released]
    body = ServerReport(url="u", version="1", spool_bytes=0, spool_limit=9, released=names)
    with catalog.writing() as tx:
        return reports.apply(tx, process_servers.get(tx, by), body, NOW)


def sends_to(catalog: Catalog) -> tuple[str | None, str]:
    with catalog.reading() as tx:
        row = machines.get(tx, MACHINE)
        return row.process_server, row.moving_to


def may_take(catalog: Catalog, server_id: str) -> bool:
    with catalog.reading() as tx:
        try:
            moving.check_assigned(tx, MACHINE, server_id)
        except Moved:
            return False
        return True


def test_a_hand_over_goes_through_the_old_servers_word(catalog: Catalog) -> None:
    carry_out(catalog, B)
    assert sends_to(catalog) == (A, B)
    assert not may_take(catalog, A)
    assert not may_take(catalog, B), "nobody takes the stream before the old server has stored all of it"
    told = [StreamName(machine=MACHINE, epoch=1)]
    assert report(catalog, A).release == told
    assert report(catalog, B, (MACHINE, 1)).release == told, "what another says means nothing"
    assert sends_to(catalog) == (A, B)
    assert report(catalog, A, (MACHINE, 1)).release == told, "and it must not take it again"
    assert sends_to(catalog) == (B, "")
    assert (may_take(catalog, A), may_take(catalog, B)) == (False, True)
    assert report(catalog, A, (MACHINE, 1)).release == told
    with catalog.reading() as tx:
        assert epochs.get(tx, MACHINE, 1).process_server == B
        assert not epochs.get(tx, MACHINE, 1).closed


def test_the_word_about_an_older_epoch_hands_nothing_over(catalog: Catalog) -> None:
    with catalog.writing() as tx:
        grant(tx, machines.get(tx, MACHINE), request(run="r2"), process_servers.get(tx, A), NOW)
    carry_out(catalog, B)
    report(catalog, A, (MACHINE, 1))
    assert sends_to(catalog) == (A, B)


def test_a_dead_server_is_passed_over_and_that_is_told(catalog: Catalog) -> None:
    carry_out(catalog, B, at_once=True)
    assert sends_to(catalog) == (B, "")
    assert may_take(catalog, B)
    with catalog.reading() as tx:
        (event,) = events.listed(tx, kind="machine.moved")
        assert event.severity == "warning"


class Clock:
    time = 0.0

    def now(self) -> int:
        return 0

    def monotonic(self) -> float:
        return self.time


def test_a_server_is_given_up_after_a_silence_that_was_listened_to() -> None:
    clock, one = Clock(), server("a")
    silence = SilenceWatch(clock, seconds=20)
    for step in range(10):
        clock.time = step * 2.0
        assert silence.given_up([one]) == set()
    clock.time = 20.0
    assert silence.given_up([one]) == {"a"}
    one.last_seen += 1
    assert silence.given_up([one]) == set()


def test_a_watch_that_slept_itself_gives_nobody_up_at_once() -> None:
    clock, one = Clock(), server("a")
    silence = SilenceWatch(clock, seconds=20)
    silence.given_up([one])
    clock.time = 3600.0
    for _ in range(LEAST_LOOKS - 1):
        assert silence.given_up([one]) == set()
    assert silence.given_up([one]) == {"a"}


def test_one_that_never_came_is_not_given_up() -> None:
    clock, one = Clock(), server("a", registered=0)
    silence = SilenceWatch(clock, seconds=1)
    for step in range(20):
        clock.time = float(step)
        assert silence.given_up([one]) == set()
