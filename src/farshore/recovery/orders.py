"""What a failover needs built, worked out from the machine's description and the chosen position. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pydantic import SecretStr

from farshore.export.settings import ExportedDisk, ExportSettings, VaultDisk
from farshore.model.errors import Refused
from farshore.model.identifiers import DiskNumber
from farshore.model.machine import MachineDescription
from farshore.recovery.context import FailoverFiles
from farshore.sites.port import AttachedDisk, FailoverId, RecoveryOrder


@dataclass(frozen=True)
class Target:
    """One failover as the steps agreed on it: ``position`` is EPOCH:SEQUENCE; ``forward`` maps host to guest ports."""

    failover: FailoverId
    machine: str
    name: str
    position: str
    isolated: bool
    forward: Mapping[int, int]


def export_settings(
    target: Target,
    sizes: Mapping[DiskNumber, int],
    files: FailoverFiles,
    *,
    vault_url: str,
    vault_key: str,
) -> ExportSettings:
    """Every disk that the vault holds at the position, each with its own overlay. Raises Refused for none."""
    if not sizes:
        raise Refused(f"{target.name} has no disk at {target.position}.", remedy="Choose another point.")
    disks = tuple(
        ExportedDisk(
            name=str(number),
            source=VaultDisk(machine=target.machine, position=target.position, disk=number),
            overlay=files.overlay(number),
        )
        for number in sorted(sizes)
    )
    return ExportSettings(
        socket=files.socket, disks=disks, vault_url=vault_url, vault_key=SecretStr(vault_key), shared=True
    )


def recovery_order(
    target: Target, machine: MachineDescription, sizes: Mapping[DiskNumber, int], files: FailoverFiles
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
                socket=files.socket,
                export=str(number),
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
