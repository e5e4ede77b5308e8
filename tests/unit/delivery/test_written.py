"""The written way over a vault: disks as the point has them, never written over once delivered, and withdrawn."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from tests.unit.vault.synthetic import MACHINE, Machine

from farshore.delivery.port import Consignment
from farshore.delivery.written import WrittenDelivery
from farshore.model.errors import Cancelled, NotFound
from farshore.model.identifiers import DiskNumber
from farshore.sites.port import WrittenDisk
from farshore.vault import OwnerKey, Vault, open_store

SIZES = {0: 3 << 20, 2: (1 << 20) + 512}


class World:
    def __init__(self, folder: Path) -> None:
        vault = Vault.create(open_store(f"file://{folder / 'vault'}"), OwnerKey.generate_file(folder / "owner.key"))
        self.machine = Machine(vault, seed=3, sizes=SIZES)
        self.machine.fill()
        self.machine.begin_epoch(None)
        self.machine.journal(segments=3, batches=1, count=20)
        self.told: list[tuple[float, str]] = []
        self.cancel_at = 2.0
        self.delivery = WrittenDelivery(step=1 << 20)
        self.consignment = Consignment(
            folder=folder / "failovers" / "f1",
            name="web1",
            machine=str(MACHINE),
            position=str(self.machine.in_vault.points.latest().position),
            sizes={DiskNumber(number): size for number, size in SIZES.items()},
            vault_url=f"file://{folder / 'vault'}",
            vault_key=vault.key_hex,
        )

    def watch(self, fraction: float, words: str) -> None:
        self.told.append((fraction, words))
        if fraction >= self.cancel_at:
            raise Cancelled("The failover was cancelled.", remedy="")

    def deliver(self) -> None:
        self.delivery.deliver(self.consignment, self.watch)

    def disk(self, number: int) -> Path:
        medium = self.delivery.media(self.consignment)[DiskNumber(number)]
        assert isinstance(medium, WrittenDisk)
        return medium.path

    def is_whole(self) -> bool:
        return all(self.disk(number).read_bytes() == bytes(self.machine.disks[number]) for number in SIZES)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_each_disk_is_written_as_the_point_has_it(world: World) -> None:
    world.deliver()
    assert world.is_whole()
    fractions = [fraction for fraction, _ in world.told]
    assert fractions == sorted(fractions)
    assert fractions[-1] == pytest.approx(1.0)
    assert {words[:11] for _, words in world.told} == {"disk 1 of 2", "disk 2 of 2"}
    assert {words.rpartition("GiB ")[2] for _, words in world.told} == {"planned", "written", "read back"}
    assert world.consignment.folder.parent.stat().st_mode & 0o077 == 0


def test_what_the_machine_has_written_is_never_written_over(world: World) -> None:
    world.deliver()
    with world.disk(0).open("r+b") as file:
        file.write(b"the machine's own")
    before = world.disk(0).read_bytes()
    world.deliver()
    world.delivery.restore(world.consignment)
    assert world.disk(0).read_bytes() == before
    assert world.delivery.stands(world.consignment.folder)


def test_a_disk_that_somebody_deleted_half_way_is_written_anew(world: World) -> None:
    world.cancel_at = 0.6
    with pytest.raises(Cancelled):
        world.deliver()
    world.disk(0).unlink()
    world.cancel_at = 2.0
    world.deliver()
    assert world.is_whole()


def test_another_point_is_another_disk(world: World) -> None:
    world.deliver()
    world.machine.journal(segments=1, batches=1, count=20)
    world.consignment = replace(world.consignment, position=str(world.machine.in_vault.points.latest().position))
    world.deliver()
    assert world.is_whole()


def test_a_disk_that_is_gone_is_told(world: World) -> None:
    assert not world.delivery.stands(world.consignment.folder)
    world.deliver()
    world.disk(2).unlink()
    assert not world.delivery.stands(world.consignment.folder)
    with pytest.raises(NotFound, match=str(world.disk(2))) as raised:
        world.delivery.restore(world.consignment)
    assert raised.value.remedy


@pytest.mark.parametrize("cancel_at", [0.0, 0.5, 2.0])
def test_nothing_is_left_of_what_is_withdrawn(world: World, cancel_at: float) -> None:
    world.cancel_at = cancel_at
    if cancel_at <= 1:
        with pytest.raises(Cancelled):
            world.deliver()
    else:
        world.deliver()
    for _ in range(2):
        world.delivery.withdraw(world.consignment.folder)
        assert list(world.consignment.folder.iterdir()) == []
        assert not world.delivery.stands(world.consignment.folder)
