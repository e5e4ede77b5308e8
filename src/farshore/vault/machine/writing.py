"""Store segments, points, descriptions and epochs: each is a conditional put that can be repeated."""

from __future__ import annotations

from farshore.formats import vault_names
from farshore.model.machine import MachineDescription
from farshore.model.point import RecoveryPoint
from farshore.vault.machine.folder import MachineFolder
from farshore.vault.objects import machine_descriptions
from farshore.vault.objects.epochs import EpochRecord
from farshore.vault.objects.segments import SegmentObject
from farshore.vault.reading import points


class MachineWriter:
    """Stores a machine's segments and documents."""

    def __init__(self, folder: MachineFolder) -> None:
        self._folder, self._machine = folder, folder.machine

    def put_segment(self, segment: SegmentObject) -> None:
        """Store a segment; one with the same name holds the same records, so finding it there is success."""
        self._folder.store.put_if_absent(segment.name, segment.buffers)

    def put_point(self, point: RecoveryPoint) -> None:
        """Store a point. Its records must be durable in the vault before."""
        name = vault_names.point(self._machine, point.position, point.id)
        self._folder.put_document(name, points.to_fields(point))

    def put_description(self, description: MachineDescription, number: int) -> None:
        """Store a version of the machine's description; ``number`` grows: ns since 1970 UTC, or the epoch."""
        name = vault_names.description(self._machine, number)
        self._folder.put_document(name, machine_descriptions.to_fields(description))

    def put_epoch(self, record: EpochRecord) -> bool:
        """Make an epoch visible: its base maps and overlay must be durable. False if it was visible already."""
        return self._folder.put_document(vault_names.epoch(self._machine, record.epoch), record.to_fields())

    def put_rebased(self, record: EpochRecord) -> bool:
        """Say an epoch again, resting on nothing: its new base maps must be durable. False if another has."""
        return self._folder.put_document(vault_names.rebased(self._machine, record.epoch), record.to_fields())
