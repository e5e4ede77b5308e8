"""Decide what a failover's guest is prepared for, by its target; None if it starts unchanged. Pure."""

from __future__ import annotations

from farshore.export.preparation.wish import CardWish, Wish
from farshore.model.machine import MachineDescription
from farshore.model.target import DiskBus, Preparation
from farshore.recovery.orders import Target, cards_of
from farshore.sites.port import Hardware

_DRIVERS = {
    DiskBus.VIRTIO: ("virtio_pci", "virtio_blk"),
    DiskBus.VIRTIO_SCSI: ("virtio_pci", "virtio_scsi", "sd_mod"),
    DiskBus.SATA: ("ahci", "sd_mod"),
    DiskBus.PVSCSI: ("vmw_pvscsi", "sd_mod"),
}
_OTHER_BUSES = ("sd", "xvd", "hd", "nvme")
_VIRTIO = "vd"


def wish_of(target: Target, machine: MachineDescription, hardware: Hardware | None = None) -> Wish | None:
    """Return what the target asks for; ``auto``: only if the target is known to differ from the source. ``hardware``:
    the site's own, which always differs."""
    prepare = target.wanted.prepare
    differs = hardware is not None or _differs(target, machine)
    if prepare is Preparation.NEVER or (prepare is Preparation.AUTO and not differs):
        return None
    boot = [disk.number for disk in machine.disks if disk.boot] or [disk.number for disk in machine.disks][:1]
    return Wish(
        drivers=_DRIVERS[target.wanted.disk_bus] if hardware is None else (*hardware.disks, hardware.cards),
        names={disk.name: disk.number for disk in machine.disks if disk.name},
        boot=boot[0] if boot else 0,
        cards=_card_wishes(target, machine) if hardware is None else _provider_s(target, machine, hardware),
        ssh=target.wanted.ssh,
    )


def _differs(target: Target, machine: MachineDescription) -> bool:
    """Return whether the guest would meet unknown hardware. A disk's name shows its bus: ``vda`` is on virtio; ``sda``
    may be on any bus but that."""
    bus = target.wanted.disk_bus
    names = [disk.name for disk in machine.disks if not disk.excluded]
    other = any(name.startswith(_OTHER_BUSES) for name in names)
    moved = bus is not DiskBus.VIRTIO and any(name.startswith(_VIRTIO) for name in names)
    return other or moved or target.wanted.ssh or any(_is_new(card) for card in _card_wishes(target, machine))


def _is_new(card: CardWish) -> bool:
    return card.configured or card.mac != card.before


def _card_wishes(target: Target, machine: MachineDescription) -> tuple[CardWish, ...]:
    """Return the source's cards. The guest names and configures added cards itself."""
    wishes = []
    cards = cards_of(target, machine.nics)[: len(machine.nics)]
    for number, (card, before) in enumerate(zip(cards, machine.nics, strict=True)):
        chosen = target.wanted.card(number)
        wishes.append(
            CardWish(
                name=before.name,
                mac=card.mac,
                before=before.mac,
                addresses=chosen.addresses,
                gateways=chosen.gateways,
                nameservers=chosen.nameservers,
                dhcp=chosen.dhcp,
            )
        )
    return tuple(wishes)


def _provider_s(target: Target, machine: MachineDescription, hardware: Hardware) -> tuple[CardWish, ...]:
    """Return the source's cards for a provider that assigns each MAC address, and gives the guest its address by
    DHCP."""
    return tuple(
        CardWish(
            name=card.name,
            mac=card.mac,
            before=card.mac,
            nameservers=target.wanted.card(number).nameservers,
            dhcp=True,
            driver=hardware.cards,
        )
        for number, card in enumerate(machine.nics)
    )
