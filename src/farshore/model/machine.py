"""The description of a machine: everything that a recovery site must know to build it again."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import Tuple

from farshore.model.errors import Refused
from farshore.model.identifiers import DiskNumber

MOST_PROTECTED_DISKS = 64
"""Maximum of one machine; further disks must be excluded."""


def refuse_too_many(name: str, disks: int) -> None:
    """Raise Refused if the machine ``name`` has more disks than can be protected."""
    if disks > MOST_PROTECTED_DISKS:
        raise Refused(
            f"{name} has {disks} disks to protect; the limit is {MOST_PROTECTED_DISKS}.",
            remedy="Exclude some by their numbers in `farshore machine show`: farshore machine protect NAME "
            "--exclude-disk NUMBER, repeated for each disk.",
        )


class Firmware(enum.Enum):
    """How the machine starts."""

    BIOS = "bios"
    UEFI = "uefi"


@dataclass(frozen=True)
class DiskDescription:
    """One whole disk. ``size`` is in bytes, a multiple of 512."""

    number: DiskNumber
    name: str
    """The kernel's name at the source (vda); it may change, the number does not."""
    size: int
    logical_block_size: int = 512
    serial: str = ""
    boot: bool = False
    excluded: bool = False


@dataclass(frozen=True)
class NicDescription:
    """One network card."""

    name: str
    mac: str
    addresses: Tuple[str, ...] = ()
    """In CIDR notation."""


@dataclass(frozen=True)
class MachineDescription:
    """A protected machine as its mobility service sees it. ``memory`` is in bytes."""

    hostname: str
    firmware: Firmware
    processors: int
    memory: int
    operating_system: str
    kernel: str
    architecture: str
    hardware_id: str = ""
    """The DMI product UUID: it distinguishes a recovered machine from its source."""
    disks: Tuple[DiskDescription, ...] = ()
    nics: Tuple[NicDescription, ...] = field(default=())
    boot_entries: Tuple[str, ...] = ()
    """Of UEFI firmware, in the order in which it tries them, in hex (farshore.model.boot_entry)."""
