"""Derive the recovery order of a failover from the machine's description and the chosen position. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from farshore.model.identifiers import DiskNumber
from farshore.model.machine import MachineDescription, NicDescription
from farshore.model.target import MachineTarget, NetworkKind, mac_of
from farshore.sites.port import (
    AttachedDisk,
    AttachedNetwork,
    FailoverId,
    Medium,
    RecoveryOrder,
)


@dataclass(frozen=True)
class Target:
    """One failover as the steps agreed on it: ``position`` is EPOCH:SEQUENCE; ``forward`` maps host to guest ports."""

    failover: FailoverId
    machine: str
    name: str
    position: str
    isolated: bool
    forward: Mapping[int, int]
    wanted: MachineTarget = field(default_factory=MachineTarget)
    bubble: str = ""
    """The network that a test shares with others; empty: it has none."""
    home: bool = False
    """It comes up at home, permanently."""


def recovery_order(
    target: Target,
    machine: MachineDescription,
    sizes: Mapping[DiskNumber, int],
    media: Mapping[DiskNumber, Medium],
) -> RecoveryOrder:
    """Return the machine to build: its disks are those in ``sizes``, the boot disk is the description's. All cards of a
    test are isolated, whatever the target says."""
    known = {disk.number: disk for disk in machine.disks}
    booting = [number for number in sorted(sizes) if number in known and known[number].boot] or sorted(sizes)[:1]
    disks = []
    for number in sorted(sizes):
        described = known.get(number)
        disks.append(
            AttachedDisk(
                number=number,
                size=sizes[number],
                medium=media[number],
                logical_block_size=described.logical_block_size if described else 512,
                serial=described.serial if described else "",
                boot=number == booting[0],
            )
        )
    wanted = target.wanted
    cards = cards_of(target, machine.nics)
    led = {number: wanted.card(number) for number in range(len(cards)) if not target.isolated}
    return RecoveryOrder(
        failover=target.failover,
        name=target.name,
        machine=replace(
            machine,
            processors=wanted.processors or machine.processors,
            memory=wanted.memory or machine.memory,
            firmware=wanted.firmware or machine.firmware,
            nics=cards,
        ),
        disks=tuple(disks),
        isolated=target.isolated,
        forward=dict(target.forward),
        disk_bus=wanted.disk_bus,
        networks={
            number: AttachedNetwork(network.kind, network.name)
            for number, network in led.items()
            if network.kind is not NetworkKind.ISOLATED
        },
        bubble=target.bubble,
        tags=dict(wanted.tags),
        home=target.home,
    )


def cards_of(target: Target, nics: tuple[NicDescription, ...]) -> tuple[NicDescription, ...]:
    """Return the source's cards, with the addresses that were chosen for them, and the added cards."""
    cards = []
    for number in range(max(len(nics), len(target.wanted.networks))):
        card = nics[number] if number < len(nics) else NicDescription(f"card{number}", "")
        chosen = target.wanted.card(number)
        mac = card.mac if chosen.keep_mac and card.mac else mac_of(target.failover, number)
        # Without a choice the card is exactly as described, so the order equals that of an earlier release.
        untouched = chosen.keep_mac and not chosen.addresses and number < len(nics)
        cards.append(card if untouched else replace(card, mac=mac, addresses=chosen.addresses or card.addresses))
    return tuple(cards)
