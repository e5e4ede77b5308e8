"""Recovery points: the moments that a machine can be brought back to."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from farshore.model.identifiers import MachineId, PointId
from farshore.model.position import Position


class PointKind(enum.Enum):
    """How much of the machine was at rest at that moment."""

    SCANNED = "scanned"
    """Read while the machine wrote, in scan mode: blocks of different moments, not even crash-consistent."""
    CRASH_CONSISTENT = "crash-consistent"
    """As after a power cut: write order kept over all disks."""
    FILE_SYSTEM_CONSISTENT = "file-system-consistent"
    """File systems were frozen."""
    APP_CONSISTENT = "app-consistent"
    """Applications were quiesced as well."""


@dataclass(frozen=True)
class RecoveryPoint:
    """A position with its time and kind. ``time`` is nanoseconds since 1970 UTC by the machine's clock."""

    id: PointId
    machine: MachineId
    position: Position
    time: int
    kind: PointKind
    name: str = ""
