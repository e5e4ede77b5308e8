"""The document that says that an epoch's base is complete, and what the epoch rests on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from farshore.model.errors import Damaged
from farshore.model.identifiers import DiskNumber, Epoch, Sequence
from farshore.model.position import Position


@dataclass(frozen=True)
class EpochDisk:
    """One disk in an epoch. Without a base map it is as at the parent position (or zero) below the overlay."""

    number: DiskNumber
    size: int
    mapped: bool
    map: str = ""
    """What makes the name of its base map the writer's own; empty in vaults of older releases."""


@dataclass(frozen=True)
class EpochRecord:
    """An epoch with a complete base. States from ``consistent_from`` on are consistent; older ones are not shown.

    ``base_end`` is the sequence after the last overlay record (1 where there is no overlay). ``time`` is when the
    base was complete, ns since 1970 UTC.
    """

    epoch: Epoch
    kind: str
    parent: Position | None
    consistent_from: Sequence
    time: int
    base_end: Sequence
    disks: tuple[EpochDisk, ...]
    description: int = 0
    """Number of the machine description that belongs to it; 0: the newest."""
    only_points: bool = False
    """Between its stored points the journal is out of order (rounds of bitmap or scan mode): only they are states."""
    domain: int = 0
    """The deduplication domain of its base and of the epochs that it rests on; 0 is the installation's."""

    def to_fields(self) -> dict[str, Any]:
        """Return the document (docs/formats/epoch.md)."""
        return {
            "format": 1,
            "epoch": self.epoch,
            "kind": self.kind,
            "parent": None if self.parent is None else [self.parent.epoch, self.parent.sequence],
            "consistent_from": self.consistent_from,
            "time": self.time,
            "base_end": self.base_end,
            "disks": [
                {"number": disk.number, "size": disk.size, "mapped": disk.mapped, "map": disk.map}
                for disk in self.disks
            ],
            "description": self.description,
            "only_points": self.only_points,
            "domain": self.domain,
        }

    @classmethod
    def from_fields(cls, fields: dict[str, Any], name: str) -> EpochRecord:
        """Read the document ``name``. Raises Damaged."""
        try:
            parent = fields["parent"]
            return cls(
                Epoch(int(fields["epoch"])),
                str(fields["kind"]),
                None if parent is None else Position(Epoch(int(parent[0])), Sequence(int(parent[1]))),
                Sequence(int(fields["consistent_from"])),
                int(fields["time"]),
                Sequence(int(fields["base_end"])),
                tuple(
                    EpochDisk(
                        DiskNumber(int(disk["number"])),
                        int(disk["size"]),
                        bool(disk["mapped"]),
                        str(disk.get("map", "")),
                    )
                    for disk in fields["disks"]
                ),
                int(fields["description"]),
                bool(fields.get("only_points", False)),
                int(fields.get("domain", 0)),
            )
        except (KeyError, TypeError, ValueError, IndexError, OverflowError) as cause:
            raise Damaged(f"{name} does not describe an epoch.", remedy="Run `farshore vault verify`.") from cause

    def disk(self, number: DiskNumber) -> EpochDisk | None:
        """Return the disk with that number in this epoch."""
        return next((disk for disk in self.disks if disk.number == number), None)
