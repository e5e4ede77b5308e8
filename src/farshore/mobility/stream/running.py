"""What all runs of an epoch share, whatever the capture mode: what they work with, and how they end."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import FrozenSet, Optional, Sequence

from farshore.api_types.machines import EpochGrant
from farshore.client.data_plane import DataPlane
from farshore.mobility.copying.disk_reader import CopiedDisk
from farshore.mobility.proving.proving import Proving
from farshore.mobility.stream.cutting import Asked
from farshore.mobility.stream.throttle import Bandwidth, Courtesy
from farshore.model.identifiers import DiskNumber, MachineId
from farshore.model.ports import Clock
from farshore.model.position import Position


class EpochEnd(enum.Enum):
    """Why an epoch ended."""

    OVERFLOW = "overflow"
    """The capture fell back to the bitmap. The epoch is consistent, and all of it acknowledged."""
    LEFT = "left"
    """We were asked to leave it, as the disks have changed. As with OVERFLOW, the next one can go on from here."""
    ESCAPED = "escaped"
    """The accounts show writes that the capture did not see, on the ``suspect`` disks. If the epoch is consistent, all
    of it is acknowledged, and the other disks can go on from here."""
    REFUSED = "refused"
    """The server does not accept this epoch any more."""
    FAILED = "failed"
    """A disk could not be read, or the .hrl file not be read back."""
    STOPPED = "stopped"


@dataclass(frozen=True)
class Ended:
    """The epoch's state at its end. ``position`` is its last acknowledged one."""

    why: EpochEnd
    position: Position
    consistent: bool
    cause: str = ""
    suspect: FrozenSet[DiskNumber] = frozenset()


@dataclass(frozen=True)
class Limits:
    """Shared by everything that reads or sends."""

    bandwidth: Bandwidth
    courtesy: Courtesy
    asked: Asked = field(default_factory=Asked)


@dataclass(frozen=True)
class EpochParts:
    """What a run works with. ``proving`` None: nothing is proven."""

    machine: MachineId
    grant: EpochGrant
    disks: Sequence[CopiedDisk]
    plane: DataPlane
    clock: Clock
    limits: Limits
    proving: Optional[Proving] = None
