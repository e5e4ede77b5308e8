"""Read from a vault what it contains of its machines, for rebuilding a catalog: epochs, points, descriptions.

Reads listings and small documents only. Damage of one machine is reported with it and does not stop the others.
"""

from __future__ import annotations

from collections.abc import Iterator, Set
from dataclasses import dataclass, field

from farshore.formats import vault_names
from farshore.model.errors import FarshoreError
from farshore.model.identifiers import MachineId
from farshore.model.machine import MachineDescription
from farshore.model.point import RecoveryPoint
from farshore.model.position import Position
from farshore.vault.objects.epochs import EpochRecord
from farshore.vault.vault import Vault

_NOT_EPOCHS = 1 << 32
"""Numbers of descriptions from here on are times, written by older releases."""


@dataclass(frozen=True)
class Stretch:
    """A complete epoch, and the position up to which its journal is stored without a gap; ``time`` (ns) of its last
    record."""

    record: EpochRecord
    stored: int
    time: int
    domain_name: str


@dataclass
class MachineContents:
    """The contents of one machine. ``newest`` is its newest state, None if there is none."""

    machine: MachineId
    description: MachineDescription | None = None
    stretches: list[Stretch] = field(default_factory=list)
    points: list[RecoveryPoint] = field(default_factory=list)
    pinned: Set[Position] = frozenset()
    trouble: str = ""

    @property
    def newest(self) -> RecoveryPoint | None:
        """The last of its points, by position."""
        return self.points[-1] if self.points else None


def contents(vault: Vault) -> Iterator[MachineContents]:
    """Yield the contents of every machine that was not erased. Raises the store's errors."""
    erased = vault.erased()
    for machine in vault.machines():
        if machine not in erased:
            yield _of(vault, machine)


def _of(vault: Vault, machine: MachineId) -> MachineContents:
    found = MachineContents(machine)
    try:
        opened = vault.machine(machine)
        timeline = opened.stored.timeline()
        found.points, found.pinned = opened.points.listed(timeline=timeline), timeline.pinned
        for number, record in sorted(timeline.epochs.items()):
            last = timeline.newest(number)
            stored, moment = (0, record.time) if last is None else last
            found.stretches.append(Stretch(record, stored, moment, vault.domain_name(record.domain)))
        found.description = opened.stored.description()
    except FarshoreError as error:
        found.trouble = error.message
    return found


def highest(vault: Vault, machine: MachineId) -> int:
    """Return the highest number of an epoch that has any object, by names alone, complete or not. Raises the store's
    errors."""
    folder = vault_names.machine_folder(machine)
    numbers = [int(name, 16) for name in vault.store.folders(f"{folder}segments/")]
    for kind in ("epochs/", "bases/", "descriptions/", "layers/", "points/"):
        numbers += [
            int(item.name[len(folder) + len(kind) :].partition("-")[0], 16) for item in vault.store.list(folder + kind)
        ]
    return max((number for number in numbers if number < _NOT_EPOCHS), default=0)
