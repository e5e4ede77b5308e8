"""Tending the vault: the catalog lists what retention keeps, and damage at one machine does not stop the others."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.unit.mobility.doubles import FakeClock
from tests.unit.protection.catalogs import add_machine, fresh_catalog
from tests.unit.vault.synthetic import Machine, memory_vault

from farshore.catalog import machines, points, policies
from farshore.catalog.database import Catalog
from farshore.catalog.tables import EpochRow, PointRow
from farshore.model.identifiers import Epoch, MachineId, PointId, Sequence
from farshore.model.point import PointKind, RecoveryPoint
from farshore.model.policy import ReplicationPolicy
from farshore.model.position import Position
from farshore.protection.tending import RetentionKept, collect_all, compact_all, rebase_all, thin_all, thinned
from farshore.protection.turns import UpkeepTurns
from farshore.vault.upkeep import pins, stored_retention
from farshore.vault.upkeep.rebase import LONGEST_CHAIN

SECOND = 1_000_000_000
MINUTE = 60 * SECOND
HOUR = 60 * MINUTE


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    made = fresh_catalog(tmp_path)
    yield made
    made.close()


def everybody() -> UpkeepTurns:
    """It is every machine's turn."""
    return UpkeepTurns(dict, FakeClock(), lambda _: 0.0)


def long_lived(seed: int) -> Machine:
    """A machine with a point every seven minutes for fourteen hours."""
    made = Machine(memory_vault(), seed, {0: 1 << 20})
    made.step = 7 * MINUTE
    made.fill()
    made.begin_epoch(None)
    made.journal(segments=120, batches=1, count=2)
    return made


def known(catalog: Catalog, machine: Machine) -> None:
    with catalog.writing() as tx:
        policies.create(tx, ReplicationPolicy(name="short", hot_window=2 * 3600, keep_hourly=4, keep_daily=0))
        add_machine(tx, id=machine.in_vault.id, state="protected", policy="short")


def test_the_catalog_lists_hourly_points_behind_the_hot_window(catalog: Catalog) -> None:
    machine = long_lived(41)
    known(catalog, machine)
    listed = machine.in_vault.points.listed()
    newest = listed[-1].time
    with catalog.writing() as tx:
        for number, point in enumerate(listed):
            row = PointRow(
                id=f"p{number}",
                machine=machine.in_vault.id,
                epoch=point.position.epoch,
                sequence=point.position.sequence,
                time=point.time,
                kind=point.kind.value,
            )
            points.record(tx, row)
    compact_all(machine.vault, everybody())
    thin_all(machine.vault, catalog, everybody())
    with catalog.reading() as tx:
        times = [row.time for row in points.listed(tx, machine.in_vault.id, limit=1000)]
    cold = [time for time in times if time < newest - 3 * HOUR]
    hot = [time for time in times if time >= newest - 2 * HOUR]
    assert len(hot) == len([point for point in listed if point.time >= newest - 2 * HOUR])
    assert 3 <= len(cold) <= 5
    assert len({time // HOUR for time in cold}) == len(cold)
    recoverable = {point.time for point in machine.in_vault.points.listed()}
    assert set(cold) <= recoverable, "every listed point can be opened"


def test_thinning_twice_changes_nothing(catalog: Catalog) -> None:
    machine = long_lived(42)
    known(catalog, machine)

    def listed() -> list[tuple[str, int]]:
        thin_all(machine.vault, catalog, everybody())
        with catalog.reading() as tx:
            return [(row.id, row.time) for row in points.listed(tx, machine.in_vault.id, limit=1000)]

    assert listed() == listed()


def test_damage_at_one_machine_does_not_stop_the_others(
    catalog: Catalog, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = long_lived(43)
    known(catalog, machine)
    # The id sorts first, and its key is no sealed document.
    machine.vault.store.put("machines/00000000-0000-4000-8000-000000000000/key", [b"junk"])
    compact_all(machine.vault, everybody())
    assert "was not indexed" in caplog.text
    rebase_all(machine.vault, everybody())
    assert "were not rebased" in caplog.text
    assert any("/layers/" in item.name for item in machine.vault.store.list(f"machines/{machine.in_vault.id}/"))


def test_long_chains_of_epochs_are_rebased(caplog: pytest.LogCaptureFixture) -> None:
    machine = long_lived(45)
    caplog.set_level("INFO")
    for _ in range(LONGEST_CHAIN + 1):
        rebase_all(machine.vault, everybody())
        assert "Rebased" not in caplog.text
        machine.begin_epoch(max(machine.states), "heal", overlay=2)
    rebase_all(machine.vault, everybody())
    assert f"epoch={LONGEST_CHAIN + 2}" in caplog.text
    machine.check(max(machine.states))


def test_only_nameless_crash_consistent_points_are_thinned() -> None:
    def point(second: float, kind: PointKind = PointKind.CRASH_CONSISTENT, name: str = "") -> RecoveryPoint:
        position = Position(Epoch(1), Sequence(int(second * 10)))
        return RecoveryPoint(PointId(str(second)), MachineId("m"), position, int(second * SECOND), kind, name)

    listed = [point(0), point(1), point(2, name="n"), point(3, PointKind.APP_CONSISTENT), point(5), point(6)]
    assert [one.time / SECOND for one in thinned(listed, 5 * SECOND)] == [0, 2, 3, 5]


def test_a_machine_that_was_forgotten_keeps_its_points(catalog: Catalog) -> None:
    machine = long_lived(44)
    before = machine.in_vault.points.listed()
    thin_all(machine.vault, catalog, everybody())
    assert machine.in_vault.points.listed() == before
    with catalog.reading() as tx:
        assert machines.every(tx) == []


def test_the_vault_learns_the_retention_of_a_policy_and_of_its_changes(catalog: Catalog) -> None:
    machine = long_lived(45)
    known(catalog, machine)
    kept = RetentionKept(lambda: machine.vault, catalog)
    kept.look()
    assert stored_retention.read(machine.vault, machine.id) is None, "no epoch of it is known yet"
    with catalog.writing() as tx:
        machines.get(tx, machine.id).epoch = 1
        tx.add(
            EpochRow(
                machine=machine.id, epoch=1, kind="initial", run="r", process_server="s", description={}, granted=1
            )
        )
    kept.look()
    found = stored_retention.read(machine.vault, machine.id)
    assert found is not None
    assert (found.name, found.hot_window, found.keep_hourly, found.keep_daily) == ("short", 2 * 3600, 4, 0)
    with catalog.writing() as tx:
        policies.change(tx, "short", {"keep_daily": 9})
    kept.look()
    found = stored_retention.read(machine.vault, machine.id)
    assert found is not None
    assert found.keep_daily == 9


def test_the_points_of_a_machine_that_the_catalog_does_not_know_stay(catalog: Catalog) -> None:
    machine = long_lived(46)
    before = machine.in_vault.points.listed()
    compact_all(machine.vault, everybody())
    thin_all(machine.vault, catalog, everybody())
    collect_all(machine.vault, catalog, everybody())
    assert machine.in_vault.points.listed() == before
    stored_retention.write(machine.vault, machine.id, ReplicationPolicy(hot_window=3600, keep_hourly=1, keep_daily=0))
    thin_all(machine.vault, catalog, everybody())
    assert len(machine.in_vault.points.listed()) < len(before) / 4, "what the vault knows of it counts"


def test_a_pinned_point_is_listed_whatever_the_policy_says(catalog: Catalog) -> None:
    machine = long_lived(47)
    known(catalog, machine)
    chosen = machine.in_vault.points.listed()[5]
    pins.pin(machine.vault, machine.id, chosen.position)
    compact_all(machine.vault, everybody())
    for _ in range(2):
        thin_all(machine.vault, catalog, everybody())
    with catalog.reading() as tx:
        marked = [row.time for row in points.listed(tx, machine.in_vault.id, limit=1000) if row.pinned]
    assert marked == [chosen.time]
    pins.unpin(machine.vault, machine.id, chosen.position)
    thin_all(machine.vault, catalog, everybody())
    with catalog.reading() as tx:
        assert not [row for row in points.listed(tx, machine.in_vault.id, limit=1000) if row.pinned]
