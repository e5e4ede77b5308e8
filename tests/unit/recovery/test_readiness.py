"""Whether a failover would work now: what is said against it, and what is not known."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.unit.protection.catalogs import MACHINE, NOW, SECOND, add_machine, description
from tests.unit.recovery.test_steps import World

from farshore.api_types.targets import Readiness, TargetSeverity
from farshore.catalog import machines, policies
from farshore.model.errors import NotFound, Refused, TryLater
from farshore.model.states import MachineState
from farshore.recovery.readiness import NOT_READY, STALE, ReadinessWatch
from farshore.sites.port import Capacity, RecoveryOrder

OTHER = "55555555-5555-4555-8555-555555555555"
GIB = 1 << 30
ERROR, WARNING = TargetSeverity.ERROR, TargetSeverity.WARNING


class Room(World):
    """One site, ``files``, whose word and size the test sets; the vault opens unless the test takes it away."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.has = Capacity(processors=4, memory=8 * GIB, memory_free=4 * GIB, disk_free=100 * GIB)
        self.refuses: Exception | None = None
        self.ordered: list[RecoveryOrder] = []
        self.vault_is_away = False
        self.site.capacity = lambda: self.has  # type: ignore[attr-defined]
        self.site.check = self._check  # type: ignore[method-assign]
        object.__setattr__(self.context, "open_vault", self._open_vault)
        self.watch = ReadinessWatch(self.context)
        self.choose(site="files")
        with self.catalog.writing() as tx:
            machines.get(tx, MACHINE).newest_point_time = NOW

    def _check(self, order: RecoveryOrder) -> None:
        self.ordered.append(order)
        if self.refuses is not None:
            raise self.refuses

    def _open_vault(self) -> None:
        if self.vault_is_away:
            raise TryLater("The store does not answer.", remedy="See to it.")

    def choose(self, machine: str = MACHINE, **target: Any) -> None:
        with self.catalog.writing() as tx:
            row = machines.get(tx, machine)
            row.target = {**row.target, **target}

    def add(self, name: str, **target: Any) -> None:
        with self.catalog.writing() as tx:
            add_machine(tx, id=OTHER, name=name, state="protected", newest_point_time=NOW,
                        target={"site": "files", **target})  # fmt: skip

    def readiness(self, machine: str = MACHINE) -> Readiness:
        with self.catalog.reading() as tx:
            row = machines.get(tx, machine)
            return self.watch.of(row, policies.get(tx, row.policy).target)

    def said(self, machine: str = MACHINE) -> list[tuple[str, TargetSeverity]]:
        found = self.readiness(machine).obstacles
        assert all(one.message and one.remedy for one in found)
        return [(one.subject, one.severity) for one in found]


@pytest.fixture
def room(tmp_path: Path) -> Iterator[Room]:
    made = Room(tmp_path)
    yield made
    made.catalog.close()


def test_nothing_is_said_before_the_site_was_asked(room: Room) -> None:
    assert room.readiness() == Readiness(site="files")
    room.watch.look()
    assert room.readiness() == Readiness(works=True, site="files", checked=NOW)
    (order,) = room.ordered
    assert (order.name, [disk.number for disk in order.disks], order.isolated) == ("db1", [0], False)


def test_a_site_s_word_grows_old(room: Room) -> None:
    room.watch.look()
    room.time.passed = STALE / SECOND
    assert room.readiness().works is True
    room.time.passed += 1
    assert room.readiness() == Readiness(site="files"), "neither well nor unwell: unknown"


def test_a_word_about_another_choice_says_nothing(room: Room) -> None:
    room.watch.look()
    room.choose(memory=2 * GIB)
    assert room.readiness().works is None
    room.watch.look_at(MACHINE)
    assert room.readiness().works is True
    assert room.ordered[-1].machine.memory == 2 * GIB


def test_a_site_is_not_asked_for_a_change_before_it_was_asked_at_all(room: Room) -> None:
    """It may boot guests to find out what it can: no request waits for that."""
    room.watch.look_at(MACHINE)
    assert room.ordered == []
    with pytest.raises(NotFound):
        room.watch.look_at("nobody")


def test_what_the_site_refuses_is_told_with_what_to_do(room: Room) -> None:
    room.refuses = Refused("db1 starts by UEFI.", remedy="Install the package ovmf.")
    room.watch.look()
    found = room.readiness()
    assert (found.works, found.obstacles[0].message, found.obstacles[0].remedy) == (
        False,
        "db1 starts by UEFI.",
        "Install the package ovmf.",
    )
    (alert,) = room.watch.conditions
    assert (alert.kind, alert.subject) == (NOT_READY, f"machine/{MACHINE}")
    assert alert.message.endswith("db1 starts by UEFI.")
    room.refuses = None
    room.watch.look()
    assert list(room.watch.conditions) == []


def test_a_site_that_is_gone_or_away_is_an_obstacle(room: Room) -> None:
    room.choose(site="moon")
    room.watch.look()
    assert room.said() == [("site", ERROR)]
    room.choose(site="files")

    def away() -> Capacity:
        raise TryLater("libvirtd does not answer.", remedy="Start it.")

    room.site.capacity = away  # type: ignore[attr-defined]
    room.watch.look()
    assert (room.readiness().works, room.said()) == (False, [("site", ERROR)])


def test_a_vault_that_does_not_open_is_an_obstacle(room: Room) -> None:
    room.vault_is_away = True
    room.watch.look()
    assert (room.readiness().works, room.said()) == (False, [("vault", ERROR)])


@pytest.mark.parametrize(
    ("state", "remedy"),
    [
        (MachineState.ENROLLED, "machine protect"),
        (MachineState.INITIAL_REPLICATION, "machine watch"),
        (MachineState.FAILING_OVER, "failover list"),
        (MachineState.COMMITTED, "failover list"),
        (MachineState.UNPROTECTED, "machine protect"),
    ],
)
def test_a_state_that_no_failover_starts_from(room: Room, state: MachineState, remedy: str) -> None:
    room.watch.look()
    room.machine_becomes(state)
    found = room.readiness()
    assert (found.works, found.obstacles[0].subject) == (False, "state"), "at once, whatever the site said before"
    assert remedy in found.obstacles[0].remedy
    room.watch.look()
    assert list(room.watch.conditions) == [], "it is no news that such a machine cannot come up"


def test_without_points_or_a_disk_to_start_from_nothing_comes_up(room: Room) -> None:
    with room.catalog.writing() as tx:
        row = machines.get(tx, MACHINE)
        row.newest_point_time, row.exclude_disks = 0, [0]
    room.watch.look()
    assert room.said()[:2] == [("points", ERROR), ("disks", ERROR)]


@pytest.mark.parametrize(
    ("has", "target", "said"),
    [
        (Capacity(), {"memory": 1 << 40}, []),
        (Capacity(processors=1), {}, [("processors", WARNING)]),
        (Capacity(processors=4), {"processors": 8}, [("processors", WARNING)]),
        (Capacity(memory=GIB // 2), {}, [("memory", WARNING)]),
        (Capacity(memory=2 * GIB, memory_free=GIB // 2), {}, [("memory", WARNING)]),
        (Capacity(memory=2 * GIB, memory_free=GIB // 2), {"memory": GIB // 4}, []),
        (Capacity(disk_free=GIB // 2), {}, [("disk", WARNING)]),
        (Capacity(disk_free=1 << 20), {}, [("disk", ERROR)]),
    ],
)
def test_a_site_has_room_or_says_what_it_lacks(
    room: Room, has: Capacity, target: dict[str, Any], said: list[tuple[str, TargetSeverity]]
) -> None:
    room.has = has
    room.choose(**target)
    room.watch.look()
    assert room.said() == said
    assert room.readiness().works is not any(severity is ERROR for _, severity in said)


def test_two_machines_cannot_have_one_port_of_a_host(room: Room) -> None:
    room.choose(forward={"2222": 22})
    room.add("web1", forward={"2222": 22})
    room.watch.look()
    for machine in (MACHINE, OTHER):
        assert room.said(machine) == [("ports", WARNING)]
        assert "db1" in room.readiness(machine).obstacles[0].message
    room.choose(forward={"2223": 22})
    room.watch.look()
    assert room.said() == []


def test_a_site_is_checked_for_all_that_are_to_come_there(room: Room) -> None:
    room.add("web1", memory=8 * GIB)
    found = room.watch.check_site("files")
    assert (found.demand.machines, found.demand.memory, found.capacity.memory) == (2, 9 * GIB, 8 * GIB)
    assert [(one.subject, one.severity) for one in found.obstacles] == [("web1", WARNING), ("memory", ERROR)]
    room.choose(OTHER, memory=GIB)
    assert room.watch.check_site("files").obstacles == []
    room.choose(OTHER, site="qemu")
    assert room.watch.check_site("files").demand.machines == 1
    room.machine_becomes(MachineState.COMMITTED)
    assert room.watch.check_site("files").demand.machines == 0, "it runs there already"


def test_a_site_is_checked_for_one_machine_whatever_its_target(room: Room) -> None:
    room.add("web1", site="qemu", processors=64)
    found = room.watch.check_site("files", "web1")
    assert (found.demand.machines, [one.subject for one in found.obstacles]) == (1, ["web1"])
    with pytest.raises(NotFound):
        room.watch.check_site("files", "nobody")
    with pytest.raises(NotFound):
        room.watch.check_site("moon")


def test_disks_that_are_left_out_need_no_room(room: Room) -> None:
    with room.catalog.writing() as tx:
        row = machines.get(tx, MACHINE)
        row.description = description(size=60 * GIB, disks=2).model_dump(mode="json")
    room.watch.look()
    assert room.said() == [("disk", WARNING)]
    with room.catalog.writing() as tx:
        machines.get(tx, MACHINE).exclude_disks = [1]
    room.watch.look()
    assert room.said() == []
    assert [disk.number for disk in room.ordered[-1].disks] == [0]


def test_a_target_that_is_not_understood_is_told(room: Room) -> None:
    room.choose(disk_bus="nvme")
    room.watch.look()
    assert (room.readiness().works, room.said()) == (False, [("target", ERROR)])


def test_a_check_by_a_script_that_is_not_there_is_to_be_minded(room: Room) -> None:
    room.watch.look()
    room.choose(checks=[{"kind": "script", "script": "orders"}, {"kind": "tcp", "port": 22}])
    room.watch.look_at(MACHINE)
    assert room.said() == [("checks", WARNING)]
    assert room.readiness().works is True
    room.context.scripts.mkdir()
    script = room.context.scripts / "orders"
    script.write_text("#!/bin/sh\n")
    script.chmod(0o755)
    assert room.said() == []
    room.choose(checks=[{"kind": "agent", "script": "orders"}])
    room.watch.look_at(MACHINE)
    assert room.said() == [("checks", WARNING)], "no agent is led out at this kind of site"
    room.site.lead_in = lambda _failover, port: port  # type: ignore[attr-defined]
    assert room.said() == []
