"""Which recovery points a machine has, and the state that somebody asks for."""

from __future__ import annotations

import numpy as np

from farshore.formats import vault_names
from farshore.model.errors import Damaged, NotFound
from farshore.model.identifiers import Epoch, PointId, Sequence
from farshore.model.point import PointKind, RecoveryPoint
from farshore.model.position import Position
from farshore.vault.machine.folder import MachineFolder
from farshore.vault.machine.stored import StoredObjects
from farshore.vault.objects.epochs import EpochRecord
from farshore.vault.reading import points
from farshore.vault.reading.points import AtTime, Choice, Latest, Named
from farshore.vault.reading.reader_threads import ReaderThreads
from farshore.vault.reading.timeline import StoredSegment, Timeline

_READERS = 8


class MachinePoints:
    """Lists a machine's recovery points and finds one of them."""

    def __init__(self, folder: MachineFolder, stored: StoredObjects) -> None:
        self._folder, self._stored, self._machine = folder, stored, folder.machine

    def listed(
        self,
        after: int | None = None,
        before: int | None = None,
        limit: int | None = None,
        timeline: Timeline | None = None,
    ) -> list[RecoveryPoint]:
        """Return recovery points by position, oldest first; times (ns) bound them half-open; ``limit`` keeps the
        newest."""
        timeline = timeline or self._stored.timeline()
        found = points.crash_consistent(timeline)
        found += [point for point in self._stored_points(timeline) if points.recoverable(timeline, point.position)]
        found.sort(key=lambda point: (point.position, point.kind is not PointKind.CRASH_CONSISTENT))
        chosen = [
            point
            for point in found
            if (after is None or point.time >= after) and (before is None or point.time < before)
        ]
        return chosen if limit is None else chosen[max(0, len(chosen) - limit) :]

    def latest(self, timeline: Timeline | None = None) -> RecoveryPoint:
        """Return the newest point. Raises NotFound if there is none. Reads no more than it must."""
        return self._latest(timeline or self._stored.timeline())

    def newest_stored(self, epoch: Epoch) -> RecoveryPoint | None:
        """Return the newest stored point of an epoch whose records are all there, or None if there is none."""
        timeline = self._stored.timeline()
        return self._newest_point(timeline, epoch, timeline.last(epoch))

    def resolve(self, choice: Choice) -> RecoveryPoint:
        """Return the state that ``choice`` asks for. Raises NotFound, Damaged."""
        timeline = self._stored.timeline()
        if isinstance(choice, Position):
            points.check_recoverable(timeline, choice)
            return self._at_position(timeline, choice)
        if isinstance(choice, AtTime):
            return self._at_time(timeline, choice.time)
        if choice is Latest.ANY:
            return self._latest(timeline)
        listed = self.listed(timeline=timeline)
        if isinstance(choice, Named):
            position = points.parse_position(choice.text)
            if position is not None and not any(point.id == choice.text for point in listed):
                points.check_recoverable(timeline, position)
                return self._at_position(timeline, position)
            return points.find(listed, choice.text)
        found = points.newest(listed, PointKind.APP_CONSISTENT)
        points.check_none_lost(timeline, found)
        return found

    def _stored_points(self, timeline: Timeline) -> list[RecoveryPoint]:
        """Points with a document; those that do not open are left out, unless the timeline is a whole one."""
        names = [item.name for item in self._folder.store.list(vault_names.points_folder(self._machine))]
        with ReaderThreads(_READERS) as readers:
            found = list(readers.map(self._stored_point, names))
        for one in found:
            if isinstance(one, Damaged) and timeline.whole:
                raise one
        return [one for one in found if isinstance(one, RecoveryPoint)]

    def _stored_point(self, name: str) -> RecoveryPoint | Damaged:
        try:
            return points.from_fields(self._folder.read_document(name), name)
        except Damaged as error:
            return error

    def _latest(self, timeline: Timeline) -> RecoveryPoint:
        newest_first = (self._newest_of(timeline, epoch) for epoch in sorted(timeline.epochs, reverse=True))
        found = next((one for one in newest_first if one is not None), None)
        points.check_none_lost(timeline, found)
        if found is None:
            raise NotFound("The vault holds no recovery point of this machine.", remedy="Wait for the first one.")
        return found

    def _newest_of(self, timeline: Timeline, epoch: Epoch) -> RecoveryPoint | None:
        """The newest state of an epoch, or None if it has none, or what it rests on is lost."""
        if not points.founded(timeline, epoch):
            return None
        record = timeline.epochs[epoch]
        sequence, time = timeline.newest(epoch) or (Sequence(0), record.time)
        if record.only_points:
            return self._newest_point(timeline, epoch, sequence)
        if sequence < record.consistent_from:
            return None
        position = Position(epoch, sequence)
        return self._point_at(position) or points.crash_point(self._machine, position, time)

    def _newest_point(self, timeline: Timeline, epoch: Epoch, last: Sequence) -> RecoveryPoint | None:
        known = [one for one in timeline.marked(epoch) if timeline.record(epoch).consistent_from <= one <= last]
        return self._point_at(Position(epoch, max(known))) if known else None

    def _point_at(self, position: Position) -> RecoveryPoint | None:
        """The stored point at a position, or None if there is none that opens."""
        prefix = vault_names.point(self._machine, position, PointId("0"))[:-1]
        item = next(iter(self._folder.store.list(vault_names.points_folder(self._machine), after=prefix)), None)
        if item is None or not item.name.startswith(prefix):
            return None
        found = self._stored_point(item.name)
        return None if isinstance(found, Damaged) else found

    def _at_position(self, timeline: Timeline, position: Position) -> RecoveryPoint:
        for point in self.listed(timeline=timeline):
            if point.position == position:
                return point
        stored = timeline.around(position.epoch, position.sequence)
        if stored is not None:
            _, index = self._stored.segment_index(stored)
            upto = index.records["time_us"][: position.sequence - index.first_sequence + 1]
            return points.crash_point(self._machine, position, index.base_time + 1000 * int(upto.max()))
        return points.crash_point(self._machine, position, timeline.record(position.epoch).time)

    def _at_time(self, timeline: Timeline, time: int) -> RecoveryPoint:
        listed = self.listed(timeline=timeline)
        if not listed:
            points.newest(listed)
        exact = points.listed_as(listed, time)
        if exact is not None:
            return exact
        newest = listed[-1]
        if time > newest.time:
            points.check_none_lost(timeline, newest)
            raise NotFound("The newest state in the vault is older than that time.", remedy="Use the latest point.")
        for begin, end in points.time_bases(listed):
            found = self._at_time_within(timeline, listed, begin, end, time)
            if found is not None:
                return found
        raise NotFound(
            "The oldest state in the vault is newer than that time.",
            remedy="Choose a point in the list: farshore vault points",
        )

    def _at_time_within(
        self, timeline: Timeline, listed: list[RecoveryPoint], begin: int, end: int, time: int
    ) -> RecoveryPoint | None:
        """The last state by ``time`` of the time base with the points ``listed[begin:end]``, or None if all is
        younger."""
        place = points.first_younger(listed, begin, end, time)
        older = listed[place - 1] if place > begin else None
        younger = listed[place] if place < end else None
        if younger is not None and (older is None or younger.position.epoch == older.position.epoch):
            # The time may lie within the segment that ends at the younger point.
            record = timeline.record(younger.position.epoch)
            stored = timeline.around(younger.position.epoch, younger.position.sequence)
            found = None if stored is None or record.only_points else self._within(record, stored, time)
            # What lies before it in its segment may have been merged with older ones, up to a state that was kept.
            if found is not None and points.recoverable(timeline, found.position):
                return found
        if older is not None and older.time < time:
            points.check_none_lost(timeline, older, None if younger is None else younger.position.epoch)
        return older

    def _within(self, record: EpochRecord, stored: StoredSegment, time: int) -> RecoveryPoint | None:
        """The last consistent state in a segment by ``time``."""
        _, index = self._stored.segment_index(stored)
        # Up to the first record that is younger: a clock that goes back never moves a younger write before the time.
        young = np.maximum.accumulate(index.records["time_us"].astype(np.int64)) * 1000 + index.base_time > time
        count = int(np.argmax(young)) if young.any() else len(young)
        sequence = Sequence(index.first_sequence + count - 1)
        if not count or sequence < record.consistent_from:
            return None
        reached = index.base_time + 1000 * int(index.records["time_us"][:count].max())
        return points.crash_point(self._machine, Position(stored.segment.epoch, sequence), reached)
