"""Whose turn it is in a round of upkeep, and that nothing is asked of the store where it is nobody's."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from tests.unit.mobility.doubles import FakeClock
from tests.unit.protection.catalogs import MACHINE, NOW, add_machine, add_server, fresh_catalog, request
from tests.unit.vault.synthetic import Machine, memory_vault

from farshore.catalog import epochs, machines, policies
from farshore.catalog.database import Catalog
from farshore.model.identifiers import MachineId
from farshore.protection.granting import grant
from farshore.protection.tending import collect_all, compact_all, rebase_all, thin_all
from farshore.protection.turns import DAY, Standing, UpkeepTurns, for_indexing, for_rebasing, for_thinning, standings
from farshore.vault.stores.counted import CountedStore
from farshore.vault.upkeep.verify import verify
from farshore.vault.vault import Vault

A, B = MachineId("a"), MachineId("b")
STANDING = Standing((1, True), 10, 96.0)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    made = fresh_catalog(tmp_path)
    yield made
    made.close()


def test_a_machine_that_stands_as_before_is_left_for_a_day(clock: FakeClock) -> None:
    now = {A: STANDING}
    turns = UpkeepTurns(lambda: now, clock, lambda one: one.group)
    assert turns.begin()
    assert turns.due(A)
    turns.done(A)
    clock.move(DAY - 1)
    turns._all_seen = clock.monotonic()
    assert not turns.begin()
    clock.move(2)
    assert turns.begin()
    assert turns.due(A)


def test_one_that_writes_is_due_when_there_may_be_enough(clock: FakeClock) -> None:
    now = {A: STANDING}
    turns = UpkeepTurns(lambda: now, clock, lambda one: one.group)
    turns.begin()
    turns.done(A)
    now = {A: replace(STANDING, written=11)}
    clock.move(95)
    assert not turns.begin()
    clock.move(2)
    assert turns.begin()
    now = {A: replace(STANDING, written=12)}  # written after the round began: the next one's
    turns.done(A)
    clock.move(100)
    assert turns.begin()


def test_another_epoch_or_policy_is_looked_at_at_once_and_what_failed_again(clock: FakeClock) -> None:
    now = {A: STANDING}
    turns = UpkeepTurns(lambda: now, clock, lambda one: one.group)
    turns.begin()
    assert turns.begin(), "it was not done"
    turns.done(A)
    assert not turns.begin()
    now = {A: replace(STANDING, shape=(2, False))}
    assert turns.begin()


def test_who_is_not_in_the_vault_costs_nothing_until_something_of_it_comes(clock: FakeClock) -> None:
    now = {A: STANDING, B: STANDING}
    turns = UpkeepTurns(lambda: now, clock, lambda one: one.group)
    turns.begin()
    turns.skip({A})
    turns.done(A)
    assert not turns.begin()
    now = {A: STANDING, B: replace(STANDING, shape=(1, False))}
    assert turns.begin()
    assert turns.due(B)


def test_the_catalog_tells_what_changed_and_marks_are_no_change(catalog: Catalog) -> None:
    with catalog.writing() as tx:
        grant(tx, add_machine(tx), request(), add_server(tx), NOW)
    before = standings(catalog)[MachineId(MACHINE)]
    with catalog.writing() as tx:
        row = epochs.get(tx, MACHINE, 1)
        row.stored = row.received = 100
    assert standings(catalog)[MachineId(MACHINE)] == before
    with catalog.writing() as tx:
        epochs.get(tx, MACHINE, 1).written = 90
    written = standings(catalog)[MachineId(MACHINE)]
    assert (written.shape, written.written) == (before.shape, 90)
    with catalog.writing() as tx:
        epochs.get(tx, MACHINE, 1).consistent = True
    whole = standings(catalog)[MachineId(MACHINE)]
    assert whole.shape != before.shape
    with catalog.writing() as tx:
        policies.get(tx, machines.get(tx, MACHINE).policy).keep_daily = 3
    assert standings(catalog)[MachineId(MACHINE)].shape != whole.shape


@pytest.mark.parametrize("known", [True, False])
def test_rounds_in_which_nothing_changed_ask_the_store_nothing(
    catalog: Catalog, clock: FakeClock, *, known: bool
) -> None:
    machine = Machine(memory_vault(), 1, {0: 1 << 20})
    machine.fill()
    machine.begin_epoch(None)
    machine.journal(segments=5, batches=1, count=2)
    if known:
        with catalog.writing() as tx:
            add_machine(tx, id=machine.in_vault.id, state="protected")
    store = CountedStore(machine.vault.store)
    vault = Vault.open_with_vault_key(store, bytes.fromhex(machine.vault.key_hex))
    indexing, thinning = for_indexing(catalog, clock), for_thinning(catalog, clock)

    def rounds() -> int:
        store.taken()
        compact_all(vault, indexing)
        thin_all(vault, catalog, thinning)
        return store.taken()[1]

    assert rounds() > 10
    clock.move(3600)
    assert rounds() == 0
    clock.move(DAY)
    assert rounds() <= 4, "whom does the vault hold, who was erased: nobody is due"
    clock.move(DAY)
    assert rounds() > 4


def test_another_epoch_makes_a_rebase_due_and_writing_does_not(catalog: Catalog, clock: FakeClock) -> None:
    with catalog.writing() as tx:
        grant(tx, add_machine(tx), request(), add_server(tx), NOW)
    turns = for_rebasing(catalog, clock)
    assert turns.begin()
    turns.done(MachineId(MACHINE))
    with catalog.writing() as tx:
        epochs.get(tx, MACHINE, 1).written = 9000
    clock.move(DAY - 1)
    assert not turns.begin()
    with catalog.writing() as tx:
        epochs.get(tx, MACHINE, 1).consistent = True
    assert turns.begin()


def test_a_day_of_upkeep_lists_an_idle_machines_objects_once_for_each_kind(catalog: Catalog, clock: FakeClock) -> None:
    """Counted as the difference that a second machine makes, and in pages: 1,000 names each."""

    def day(count: int) -> dict[str, int]:
        made, first = memory_vault(), None
        for number in range(count):
            machine = Machine(made, 1, {0: 1 << 20}, MachineId(f"00000000-0000-4000-8000-{number:012d}"))
            machine.fill()
            machine.begin_epoch(None)
            machine.journal(segments=130, batches=1, count=2)
            first = first or machine
        assert first is not None
        store = CountedStore(made.store)
        vault = Vault.open_with_vault_key(store, bytes.fromhex(made.key_hex))
        turns = for_indexing(catalog, clock), for_rebasing(catalog, clock), for_thinning(catalog, clock)

        def rounds(at: int) -> None:
            compact_all(vault, turns[0])
            rebase_all(vault, turns[1])
            thin_all(vault, catalog, turns[2])
            if at % 24 == 0:
                collect_all(vault, catalog, turns[2])
                verify(vault, light=True)

        for hour in range(49):
            if hour == 25:
                before = store.requests
            rounds(hour)
            clock.move(3600)
        return {kind: number - before[kind] for kind, number in store.requests.items()}

    one, two = day(1), day(2)
    each = {kind: two[kind] - one[kind] for kind in one}
    assert each["list"] <= 5, "once for the collection and once for the look-over, and lists of the condemned"
    assert each["put"] == 0
    assert each["get"] <= 20
