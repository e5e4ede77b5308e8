"""What the scrub finds becomes events, an alert and a warning of the machine, and a resync ends the alert."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.unit.protection.catalogs import add_machine, fresh_catalog
from tests.unit.vault.synthetic import Machine, memory_vault

from farshore.catalog import events
from farshore.catalog.database import Catalog
from farshore.configuration_server.watching import Watch
from farshore.protection.clocks import OwnClock
from farshore.protection.scrubbing import Scrubbing
from farshore.protection.silence import SilenceWatch

DAY = 86400 * 1_000_000_000


class Days:
    """A clock that is told the day."""

    def __init__(self) -> None:
        self.day = 1

    def now(self) -> int:
        return self.day * DAY

    def monotonic(self) -> float:
        return self.now() / 1e9


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    made = fresh_catalog(tmp_path)
    yield made
    made.close()


def alerts(catalog: Catalog) -> list[tuple[str, str]]:
    with catalog.reading() as tx:
        return [(one.kind, one.subject) for one in events.open_alerts(tx)]


def test_damage_is_told_until_the_newest_point_is_whole(catalog: Catalog) -> None:
    machine = Machine(memory_vault(), 71, {0: 2 << 20})
    machine.fill()
    machine.begin_epoch(None)
    with catalog.writing() as tx:
        add_machine(tx, id=machine.id, state="enrolled")
    days = Days()
    scrubbing = Scrubbing(lambda: machine.vault, catalog, days, days=10)
    watch = Watch(catalog, days, SilenceWatch(days), OwnClock(catalog, days))

    def pass_days(count: int) -> None:
        for _ in range(count):
            days.day += 1
            scrubbing.step()
            watch.look(scrubbing.conditions)

    pass_days(12)
    assert alerts(catalog) == []
    (name,) = [item.name for item in machine.vault.store.list("chunks/")]
    data = bytearray(machine.vault.store.get(name))
    data[100] ^= 1
    machine.vault.store.put(name, [data])
    pass_days(11)
    subject = f"machine/{machine.id}"
    assert alerts(catalog) == [("vault-damage", subject)]
    with catalog.reading() as tx:
        told = events.listed(tx, kind="vault.damaged", subject=subject)
        assert [(row.detail["disk"], row.detail["end"] - row.detail["start"]) for row in told] == [(0, 65536)]
        (alert,) = events.open_alerts(tx)
        assert "farshore machine resync" in alert.remedy
    # A server that starts anew knows it from the vault.
    scrubbing = Scrubbing(lambda: machine.vault, catalog, days, days=10)
    pass_days(1)
    assert alerts(catalog) == [("vault-damage", subject)]
    assert machine.begin_epoch(machine.in_vault.points.latest().position, "resync") > 0
    pass_days(1)
    assert alerts(catalog) == [("vault-damage-older", subject)]
