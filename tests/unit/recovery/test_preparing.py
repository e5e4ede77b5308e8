"""The step that prepares a guest: when it does, what it leaves when it is cut off or fails, and the way home."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from tests.unit.protection.catalogs import MACHINE
from tests.unit.recovery.test_orders import MACHINE as DESCRIBED
from tests.unit.recovery.test_steps import FAILOVER, OTHER, World

from farshore.api_types.failovers import GuestPreparation
from farshore.catalog import failovers
from farshore.delivery.written import WrittenDelivery
from farshore.export.appliance import Disk
from farshore.export.preparation.wish import CardWish, Report, Wish, read_wish
from farshore.model.errors import Cancelled, Refused
from farshore.model.identifiers import DiskNumber
from farshore.model.machine import MachineDescription, NicDescription
from farshore.model.position import Position
from farshore.model.target import DiskBus, MachineTarget, Preparation, TargetNetwork
from farshore.recovery.context import RecoveryContext
from farshore.recovery.guest_wish import wish_of
from farshore.recovery.orders import Target
from farshore.recovery.steps.prepare import prepare
from farshore.sites.port import FailoverId, Hardware, Way

POSITION = "1:50"
HYPER_V = Hardware(disks=("hv_vmbus", "hv_storvsc", "sd_mod"), cards="hv_netvsc")
CARD = NicDescription("ens192", "00:50:56:aa:bb:01", ("198.51.100.7/24",))
VIRTIO = replace(DESCRIBED, disks=(replace(DESCRIBED.disks[0], name="vda", boot=True),), nics=(CARD,))


class Stored:
    """The machine in the vault, and all its parts."""

    @property
    def stored(self) -> Stored:
        return self

    disks = stored

    def description(self, _position: Position) -> MachineDescription:
        return DESCRIBED

    def sizes(self, _position: Position) -> dict[DiskNumber, int]:
        return {DiskNumber(3): 2 << 20, DiskNumber(1): 1 << 20}


@dataclass(frozen=True)
class Context(RecoveryContext):
    """Without a vault."""

    def machine_vault(self, machine: str) -> Any:
        return Stored()


class Appliance:
    """Remembers what it was asked for; ``act`` decides how it ends."""

    def __init__(self, act: Callable[[], None] = lambda: None) -> None:
        self.act = act
        self.asked: list[tuple[list[str], Wish]] = []

    def __call__(self, disks: Sequence[tuple[DiskNumber, Disk]], wish: Wish, _watch: object) -> Report:
        self.asked.append(([f"{number}: {disk.at.name}/{disk.export}" for number, disk in disks], wish))
        self.act()
        return Report("Debian", ("/etc/fstab: disks by UUID",), ("mind",))


def prepared_by(world: World, appliance: Appliance) -> Context:
    known = {field: getattr(world.context, field) for field in world.context.__dataclass_fields__}
    return Context(**{**known, "prepare": appliance})


def noted(world: World) -> GuestPreparation:
    with world.catalog.reading() as tx:
        return GuestPreparation.model_validate(failovers.get(tx, FAILOVER).preparation)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_a_guest_is_prepared_once_and_the_record_lists_it(world: World) -> None:
    appliance = Appliance()
    context = prepared_by(world, appliance)
    prepare(context, FAILOVER, POSITION)
    prepare(context, FAILOVER, POSITION)
    ((disks, wish),) = appliance.asked
    assert disks == ["1: nbd.sock/1", "3: nbd.sock/3"]
    assert wish == Wish(drivers=("virtio_pci", "virtio_blk"), names={"sda": 1, "sdb": 2, "sdc": 3}, boot=3)
    assert noted(world) == GuestPreparation(
        outcome="prepared", system="Debian", changes=["/etc/fstab: disks by UUID"], warnings=["mind"]
    )
    assert not context.files(FAILOVER).preparing.exists()


def overlay_of(context: Context) -> Path:
    return context.files(FAILOVER).folder / "disk-1" / "data"


def half_way(world: World, error: BaseException) -> Context:
    """It has written to the disk when it ends so."""
    context = prepared_by(world, Appliance())

    def act() -> None:
        overlay_of(context).parent.mkdir(parents=True)
        overlay_of(context).touch()
        raise error

    return replace(context, prepare=Appliance(act))


def test_one_that_cannot_be_prepared_starts_as_it_was(world: World) -> None:
    context = half_way(world, Refused("No Linux system is on the disks.", remedy="Set its target."))
    prepare(context, FAILOVER, POSITION)
    assert noted(world) == GuestPreparation(
        outcome="failed", warnings=["No Linux system is on the disks. Set its target."]
    )
    assert not overlay_of(context).exists()
    assert world.exports.serving(context.files(FAILOVER).folder)


def test_one_that_was_cut_off_begins_anew_from_disks_as_they_were(world: World) -> None:
    with pytest.raises(KeyboardInterrupt):
        prepare(half_way(world, KeyboardInterrupt()), FAILOVER, POSITION)
    context = prepared_by(world, Appliance())
    assert overlay_of(context).exists()
    prepare(context, FAILOVER, POSITION)
    assert not overlay_of(context).exists()
    assert noted(world).outcome == "prepared"


def test_it_can_be_cancelled(world: World) -> None:
    with pytest.raises(Cancelled):
        prepare(half_way(world, Cancelled("The failover was cancelled.", remedy="")), FAILOVER, POSITION)
    assert noted(world).outcome == ""


def test_disks_that_were_written_are_prepared_in_their_files(world: World) -> None:
    appliance = Appliance()
    known = replace(prepared_by(world, appliance), deliveries={Way.SERVED: WrittenDelivery()})
    prepare(known, FAILOVER, POSITION)
    assert appliance.asked[0][0] == ["1: disk-1.raw/0", "3: disk-3.raw/0"]


def test_on_the_way_home_only_what_was_prepared_is_taken_back(world: World) -> None:
    appliance = Appliance()
    context = prepared_by(world, appliance)
    world.change(direction="home")
    prepare(context, FAILOVER, POSITION)
    assert not appliance.asked
    world.request(OTHER, preparation={"outcome": "prepared"})
    prepare(context, FAILOVER, POSITION)
    assert appliance.asked[0][1] == Wish(undo=True)
    assert noted(world).outcome == "undone"


def target(wanted: MachineTarget) -> Target:
    return Target(FailoverId("f"), str(MACHINE), "db1", POSITION, isolated=False, forward={}, wanted=wanted)


@pytest.mark.parametrize(
    ("wanted", "described", "expected"),
    [
        (MachineTarget(), VIRTIO, False),
        (MachineTarget(), replace(VIRTIO, disks=()), False),
        (MachineTarget(), DESCRIBED, True),
        (MachineTarget(disk_bus=DiskBus.SATA), VIRTIO, True),
        (MachineTarget(ssh=True), VIRTIO, True),
        (MachineTarget(networks=(TargetNetwork(keep_mac=False),)), VIRTIO, True),
        (MachineTarget(networks=(TargetNetwork(dhcp=True),)), VIRTIO, True),
        (MachineTarget(networks=(TargetNetwork(addresses=("192.0.2.10/24",)),)), VIRTIO, True),
        (MachineTarget(prepare=Preparation.NEVER, ssh=True), DESCRIBED, False),
        (MachineTarget(prepare=Preparation.ALWAYS), VIRTIO, True),
    ],
)
def test_when_a_guest_is_prepared(wanted: MachineTarget, described: MachineDescription, expected: bool) -> None:
    assert (wish_of(target(wanted), described) is not None) == expected


def test_a_card_s_wish_is_its_target_s() -> None:
    chosen = TargetNetwork(addresses=("192.0.2.10/24",), gateways=("192.0.2.1",), keep_mac=False)
    wish = wish_of(target(MachineTarget(networks=(chosen, TargetNetwork()))), VIRTIO)
    assert wish is not None
    (card,) = wish.cards
    assert (card.name, card.before) == ("ens192", CARD.mac)
    assert card.mac.startswith("52:54:00:")
    assert (card.addresses, card.gateways) == (("192.0.2.10/24",), ("192.0.2.1",))


def test_a_provider_s_hardware_is_prepared_for() -> None:
    """Whatever bus the target names, and although the disks' names say nothing of it."""
    chosen = TargetNetwork(addresses=("192.0.2.10/24",), nameservers=("192.0.2.53",))
    wish = wish_of(target(MachineTarget(networks=(chosen,))), VIRTIO, HYPER_V)
    assert wish is not None
    assert wish.drivers == ("hv_vmbus", "hv_storvsc", "sd_mod", "hv_netvsc")
    (card,) = wish.cards
    assert card == CardWish("ens192", CARD.mac, CARD.mac, nameservers=("192.0.2.53",), dhcp=True, driver="hv_netvsc")
    assert wish_of(target(MachineTarget(prepare=Preparation.NEVER)), VIRTIO, HYPER_V) is None


def test_a_wish_comes_back_from_json() -> None:
    wish = wish_of(target(MachineTarget(ssh=True)), VIRTIO)
    assert wish is not None
    fields = {**vars(wish), "drivers": list(wish.drivers), "cards": [
        {**vars(card), "addresses": [], "gateways": [], "nameservers": []} for card in wish.cards
    ]}  # fmt: skip
    assert read_wish(fields) == wish
