"""Several writers at once on a real PostgreSQL: who loses a conflict repeats, and no event is skipped by a follower."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from tests.unit.catalog.test_events import (  # run here on PostgreSQL
    page,
    rest,
    tell,
    test_a_burst_with_equal_times_is_seen_whole_and_in_its_order,
    test_a_cursor_goes_on_after_everything_was_forgotten,
    test_nothing_of_a_transaction_that_failed_is_seen,
)
from tests.unit.configuration_server.offices import Office
from tests.unit.protection.catalogs import MACHINE, NOW, add_machine

from farshore.api_types.commands import ResyncArguments
from farshore.catalog import events, machines, policies
from farshore.catalog.commands import COMMANDS
from farshore.catalog.database import Catalog, Patience, Transaction
from farshore.configuration_server.identity import Kind
from farshore.configuration_server.waiting import Waiting, look
from farshore.model.errors import TryLater, WrongState
from farshore.model.policy import ReplicationPolicy
from farshore.protection.commands import ask, offered

__all__ = [
    "test_a_burst_with_equal_times_is_seen_whole_and_in_its_order",
    "test_a_cursor_goes_on_after_everything_was_forgotten",
    "test_nothing_of_a_transaction_that_failed_is_seen",
]
pytestmark = pytest.mark.root

WRITERS, TRANSACTIONS, EACH, BEATS = 4, 60, 15, 15


@pytest.fixture
def two(catalog: Catalog) -> Catalog:
    """With two policies whose numbers are read and changed below."""

    def make(tx: Transaction) -> None:
        for name in ("a", "b"):
            policies.create(tx, ReplicationPolicy(name=name))
            policies.get(tx, name).keep_daily = 0

    catalog.write(make)
    return catalog


def daily(tx: Transaction, name: str) -> int:
    return policies.get(tx, name).keep_daily


def add(tx: Transaction, name: str, more: int = 1) -> None:
    policies.get(tx, name).keep_daily += more
    tx.flush()


def at_the_statement(catalog: Catalog, tx: Transaction) -> None:
    """Another one changes what this transaction has read and changes next."""
    daily(tx, "a")
    catalog.write(lambda other: add(other, "a", 10))
    add(tx, "a")


def at_the_commit(catalog: Catalog, tx: Transaction) -> None:
    """Each reads what the other one writes; all statements succeed."""
    add(tx, "a", 1 + daily(tx, "b") * 0)

    def cross(other: Transaction) -> None:
        add(other, "b", 10 + daily(other, "a") * 0)

    catalog.write(cross)


@pytest.mark.parametrize(("meet", "numbers"), [(at_the_statement, (11, 0)), (at_the_commit, (1, 10))])
def test_who_loses_a_conflict_repeats(
    two: Catalog, meet: Callable[[Catalog, Transaction], None], numbers: tuple[int, int]
) -> None:
    ends: list[str] = []

    def work(tx: Transaction) -> str:
        if not ends:
            ends.append("met")
            meet(two, tx)
            ends.append("all statements succeeded")
        else:
            add(tx, "a")
        return "done"

    assert two.write(work) == "done"
    assert ("all statements succeeded" in ends) == (meet is at_the_commit)
    with two.reading() as tx:
        assert (daily(tx, "a"), daily(tx, "b")) == numbers
    with pytest.raises(TryLater), two.writing() as tx:  # what is not repeated ends there
        meet(two, tx)


def test_who_loses_each_time_is_told(two: Catalog) -> None:
    short = Catalog(two.engine.url.render_as_string(hide_password=False), Patience(tries=3))
    calls = []

    def work(tx: Transaction) -> None:
        calls.append(1)
        at_the_statement(two, tx)

    with pytest.raises(TryLater, match=r"3 times in a row.*serialize") as raised:
        short.write(work)
    assert "Repeat" in raised.value.remedy
    short.close()
    with two.reading() as tx:
        assert (len(calls), daily(tx, "a")) == (3, 30)


def test_a_deadlock_is_repeated_by_the_one_that_it_ended(two: Catalog) -> None:
    both, calls = threading.Barrier(2), []

    def work(first: str, second: str) -> None:
        met = False

        def cross(tx: Transaction) -> None:
            nonlocal met
            calls.append(first)
            add(tx, first)
            if not met:
                met = True
                both.wait()
            add(tx, second)

        two.write(cross)

    threads = [threading.Thread(target=work, args=names) for names in (("a", "b"), ("b", "a"))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with two.reading() as tx:
        assert (daily(tx, "a"), daily(tx, "b")) == (2, 2)
    assert len(calls) > 2


def test_a_name_that_is_taken_is_no_conflict(two: Catalog) -> None:
    calls = []

    def take(tx: Transaction) -> None:
        calls.append(1)
        if len(calls) == 1:
            two.write(lambda other: policies.create(other, ReplicationPolicy(name="gold")))
        policies.create(tx, ReplicationPolicy(name="gold"))

    with pytest.raises(WrongState):
        two.write(take)


def test_agents_that_report_at_once_are_all_heard(tmp_path: Path, catalog: Catalog) -> None:
    """Each heartbeat reads what the others write: how many events of the kind there were within the hour."""
    catalog.write(policies.ensure_default)
    office = Office(tmp_path, catalog)
    names = [f"77777777-7777-4777-8777-{number:012}" for number in range(WRITERS)]
    for name in names:
        catalog.write(partial(add_machine, id=name, name=name, hardware_id=""))
    shown = {name: office.certificate(Kind.MACHINE, name) for name in names}
    answers: list[int] = []

    def report(name: str) -> None:
        for number in range(BEATS):
            beat = {"run": "r1", "version": "1", "mode": ("data", "bitmap")[number % 2]}
            answers.append(office.call("POST", "/v1/machines/self/heartbeat", beat, shown[name]).status)

    threads = [threading.Thread(target=report, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [200] * WRITERS * BEATS
    with catalog.reading() as tx:
        assert len(events.listed(tx, kind="capture.mode", limit=1000)) == WRITERS * BEATS


def test_an_event_that_is_seen_late_is_not_skipped(catalog: Catalog) -> None:
    """Its id was given first, and it is committed last."""
    catalog.write(lambda tx: tell(tx, "before"))
    with catalog.writing() as slow:
        tell(slow, "slow")
        slow.flush()
        catalog.write(lambda tx: tell(tx, "fast"))
        with catalog.reading() as tx:
            assert [row.message for row in events.listed(tx)] == ["before", "fast"], "or nothing was shown here"
        ((seen, message),) = rest(catalog)
        assert message == "before"
    assert [message for _, message in rest(catalog, seen)] == ["slow", "fast"]


def test_a_writer_that_fails_holds_nothing_up(catalog: Catalog) -> None:
    def fail(tx: Transaction) -> None:
        tell(tx, "failing")
        tx.flush()
        catalog.write(lambda other: tell(other, "fast"))
        assert page(catalog, 0, 10) == []
        raise KeyError

    with pytest.raises(KeyError):
        catalog.write(fail)
    assert [message for _, message in rest(catalog)] == ["fast"]


def test_locks_of_others_mean_nothing(catalog: Catalog) -> None:
    """Advisory locks of other programs, and those of another catalog in the same cluster."""
    catalog.write(lambda tx: tell(tx, "one"))
    elsewhere = Catalog(catalog.engine.url.set(database="template1").render_as_string())
    with catalog.engine.connect() as other, elsewhere.engine.connect() as another:
        for key in ("1", "-1", str(2**63 - 1), str(events.LOCKS - 1), str(events.LOCKS + (1 << 40)), "1, 1"):
            other.exec_driver_sql(f"SELECT pg_advisory_lock({key})")
        another.exec_driver_sql(f"SELECT pg_advisory_lock({events.LOCKS})")
        assert [message for _, message in rest(catalog)] == ["one"]
    elsewhere.close()


def test_a_follower_sees_every_event_of_a_burst_of_several_writers(catalog: Catalog) -> None:
    def write(name: int) -> None:
        for number in range(TRANSACTIONS):
            messages = [f"{name}/{number * EACH + one}" for one in range(EACH)]

            def one_by_one(tx: Transaction, messages: list[str] = messages) -> None:
                for message in messages:
                    tell(tx, message)
                    tx.flush()  # its id is given here, among those of the others

            catalog.write(one_by_one)

    threads = [threading.Thread(target=write, args=(name,)) for name in range(WRITERS)]
    for thread in threads:
        thread.start()
    seen: list[tuple[int, str]] = []
    while any(thread.is_alive() for thread in threads):
        seen += page(catalog, seen[-1][0] if seen else 0, 97)
    for thread in threads:
        thread.join()
    seen += rest(catalog, seen[-1][0] if seen else 0, 97)
    assert sorted(seen) == seen
    wanted = [f"{name}/{number}" for name in range(WRITERS) for number in range(TRANSACTIONS * EACH)]
    assert sorted(message for _, message in seen) == sorted(wanted)


def test_a_command_that_another_server_asked_for_is_found_at_the_next_look(catalog: Catalog) -> None:
    """What one server commits wakes the streams of that server; those of another one are woken by its look."""
    catalog.write(policies.ensure_default)
    catalog.write(partial(add_machine, protect=True, state="protected"))
    other = Catalog(catalog.engine.url.render_as_string(hide_password=False))
    mine, others = Waiting(), Waiting()
    catalog.listen(COMMANDS, mine.wake)
    other.listen(COMMANDS, others.wake)

    async def scene() -> None:
        with mine.wait(MACHINE, (), 0) as waiter:
            other.write(lambda tx: ask(tx, "c", MACHINE, ResyncArguments(), NOW))
            assert (mine.heard, others.heard) == (0, 1)
            look(catalog, mine)
            assert await waiter.woken(asyncio.get_running_loop().time() + 60)
            with catalog.reading() as tx:
                assert [one.id for one in offered(tx, machines.get(tx, MACHINE), "r", 0).commands] == ["c"]

    asyncio.run(scene())
    other.close()
