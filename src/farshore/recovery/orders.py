"""What a failover needs built, worked out from the machine's description and the chosen position. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from farshore.model.identifiers import DiskNumber
from farshore.model.machine import MachineDescription
from farshore.sites.port import AttachedDisk, FailoverId, RecoveryOrder, ServedDisk, WrittenDisk


@dataclass(frozen=True)
class Target:
    """One failover as the steps agreed on it: ``position`` is EPOCH:SEQUENCE; ``forward`` maps host to guest ports."""

    failover: FailoverId
    machine: str
    name: str
    position: str
    isolated: bool
    forward: Mapping[int, int]


def recovery_order(
    target: Target,
    machine: MachineDescription,
    sizes: Mapping[DiskNumber, int],
    media: Mapping[DiskNumber, ServedDisk | WrittenDisk],
) -> RecoveryOrder:
    """The machine to build: its disks are those in ``sizes``, the one to start from is the description's."""
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
    return RecoveryOrder(
        failover=target.failover,
        name=target.name,
        machine=machine,
        disks=tuple(disks),
        isolated=target.isolated,
        forward=dict(target.forward),
    )
