"""Recovery points: the moments to which a machine can be brought back."""

from __future__ import annotations

import enum
import uuid
from dataclasses import dataclass

from farshore.model.identifiers import MachineId, PointId
from farshore.model.position import Position


class PointKind(enum.Enum):
    """How much of the machine was at rest at that moment."""

    SCANNED = "scanned"
    """Read while the machine wrote, in scan mode: blocks of different moments, not even crash-consistent."""
    CRASH_CONSISTENT = "crash-consistent"
    """As after a power cut: the order of writes is kept over all disks."""
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

    @property
    def listed_id(self) -> str:
        """The id under which the catalog lists it. A moment of the stream, which the vault knows by its position,
        always gets the same id."""
        return self.id if ":" not in self.id else id_of(self.machine, self.position, self.kind)


def id_of(machine: str, position: Position, kind: PointKind) -> str:
    """Return the id of a point without an id of its own, derived from its position."""
    return str(uuid.uuid5(uuid.UUID(machine), f"{position}:{kind.value}"))
