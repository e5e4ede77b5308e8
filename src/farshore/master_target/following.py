"""Bring one machine's disks to the newest position in the vault, repeatedly, and make them complete at the end.

Each turn continues from the record, so a first run and one after a kill are the same. A disk whose position is not
known is compared (comparing.py), then gets its journals; one with a known position gets the later changes
(farshore.vault.reading.changes). All the while its first bytes are a notice (farshore.formats.disk_notice), and a disk
with a notice is never started. The disks of a machine become complete only when all of them are at one position.

The order, at each step: bytes to the disk, flush, record. ``durable`` is called before and after each of them: there a
test kills.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from farshore.formats.disk_notice import HELD, NOTICE_BYTES, DiskNotice, decode_notice
from farshore.master_target.comparing import Compared, compare, spans, spans_of
from farshore.master_target.record import DiskRecord, MachineRecord, Phase, RecordFolder
from farshore.master_target.target_disk import BehindNotice, TargetDisk
from farshore.model.errors import Damaged, NotFound, Refused
from farshore.model.identifiers import CHUNK, DiskNumber
from farshore.model.position import Position
from farshore.vault.machine import MachineVault
from farshore.vault.reading.changes import Changes, apply, changes, journal_of
from farshore.vault.reading.timeline import Timeline
from farshore.vault.reading.view import DiskView

log = logging.getLogger(__name__)

NOTE_BYTES = 1 << 30
"""Bytes of a disk between two records of its comparison: the most that a kill costs."""
_NOTE_TOUCHED = 1 << 16
"""Length of the chunk list that is kept in memory between them."""


class Stopped(Exception):
    """The caller asked for an end; the next run continues."""


@dataclass
class Figures:
    """What was done since the start."""

    compared: int = 0
    """Bytes read and hashed."""
    written: int = 0
    """Bytes written to disks."""


class Following:
    """One machine; the caller has locked ``folder`` and opened ``disks``. Not for several threads.

    Raises Refused for a disk that is not the one that was begun with."""

    def __init__(
        self,
        machine: MachineVault,
        folder: RecordFolder,
        disks: Mapping[DiskNumber, TargetDisk],
        durable: Callable[[str], None] = lambda _step: None,
        note_bytes: int = NOTE_BYTES,
        stopping: Callable[[], bool] = lambda: False,
    ) -> None:
        self._machine, self._folder, self._disks = machine, folder, disks
        self._stopping = stopping
        self._durable, self._note_bytes = durable, note_bytes
        self.record: MachineRecord = folder.load()
        self.figures = Figures()
        self._changes: dict[tuple[Position, Position], Mapping[DiskNumber, Changes] | None] = {}
        for disk in self.record.disks:
            self._check(disk)

    def turn(self) -> bool:
        """Bring the disks to the newest position, and make them complete if that was requested. Return whether anything
        was done. Raises the store's errors, Damaged, NotFound; the next turn continues. Raises Stopped between two
        steps of a comparison, once ``stopping`` returns True."""
        if self.record.released:
            return False
        if self.record.release is not None:
            self._release(self.record.release)
            return True
        asked, wanted = self._folder.asked_to_finish()
        if not asked and not self._is_behind():
            return False
        timeline = self._machine.stored.timeline()
        newest = self._machine.points.latest(timeline).position
        until = newest
        if wanted is not None and wanted <= newest:  # otherwise it has not arrived yet
            until = self._machine.points.resolve(wanted).position
        self._changes = {}
        for disk in self.record.disks:
            self._bring(disk.number, until, timeline)
        if asked and until == (wanted or newest):
            self._save(dataclasses.replace(self.record, release=until))
            self._release(until)
        return True

    @property
    def position(self) -> Position | None:
        """Return the position of all disks; None if they have no common position."""
        found = {disk.position for disk in self.record.disks}
        at_rest = all(disk.phase in (Phase.FOLLOWING, Phase.RELEASED) for disk in self.record.disks)
        return found.pop() if at_rest and len(found) == 1 else None

    def _is_behind(self) -> bool:
        here = self.position
        return here is None or self._machine.stored.anything_after(here)

    def _check(self, disk: DiskRecord) -> None:
        """Check that the disk is the one that was prepared. Raises Refused if it is another disk, or lacks the notice
        that it must have in this phase."""
        opened = self._disks[disk.number]
        if opened.identity != disk.identity:
            raise Refused(
                f"{disk.path} is not the disk that this began with ({opened.identity}, not {disk.identity}).",
                remedy="Attach the former disk again, or forget the machine and begin again.",
            )
        if disk.phase is Phase.RELEASED:
            return
        if disk.phase is Phase.CLAIMED:
            self._check_claimed(disk)
            return
        found = self._notice(disk)
        if found is None and self.record.release is not None:
            # It was made complete, and the record does not show it. It may have been started since.
            self._save(self.record.with_disk(dataclasses.replace(disk, phase=Phase.RELEASED)))
        elif found is None or found.claim != disk.claim:
            raise Refused(
                f"Another program has written to {disk.path}: our notice at its beginning is gone.",
                remedy="Forget the machine and begin again, which compares the whole disk.",
            )

    def _check_claimed(self, disk: DiskRecord) -> None:
        """Raise Refused for a disk that another machine got since it was checked."""
        with contextlib.suppress(Damaged):  # it was checked, and may be overwritten
            found = self._notice(disk)
            mine = self.record.vault, self.record.machine, disk.number
            if found is not None and (found.vault, found.machine, found.disk) != mine:
                raise Refused(
                    f"{disk.path} is half written: it will become disk {found.disk} of machine {found.machine}.",
                    remedy="Forget one of the two machines, and begin again with another disk.",
                )

    def _notice(self, disk: DiskRecord) -> DiskNotice | None:
        return decode_notice(self._disks[disk.number].head(NOTICE_BYTES))

    def _save(self, record: MachineRecord) -> None:
        self._durable("before the record")
        self._folder.save(record)
        self.record = record
        self._durable("after the record")

    def _flush(self, disk: DiskRecord) -> None:
        self._durable("before the flush")
        self._disks[disk.number].flush()
        self._durable("after the flush")

    def _disk(self, number: DiskNumber) -> DiskRecord:
        return next(disk for disk in self.record.disks if disk.number == number)

    def _update(self, number: DiskNumber, **fields: object) -> None:
        self._save(self.record.with_disk(dataclasses.replace(self._disk(number), **fields)))  # type: ignore[arg-type]

    def _bring(self, number: DiskNumber, until: Position, timeline: Timeline) -> None:
        disk = self._disk(number)
        if disk.phase is Phase.CLAIMED:
            notice = DiskNotice(self.record.vault, self.record.machine, number, disk.claim)
            self._disks[number].write(0, notice.encode())
            self._flush(disk)  # before anything else of the disk changes
            self._disks[number].zero(NOTICE_BYTES, min(HELD, disk.size))
            self._flush(disk)
            self._begin_comparing(number, until)
        elif disk.phase is Phase.FOLLOWING:
            if disk.position == until:
                return
            assert disk.position is not None
            found = self._between(timeline, disk.position, until)
            if found is not None:
                self._apply(number, found.get(number, Changes()), until)
                return
            log.warning(
                "%s: the vault cannot tell what changed between %s and %s; the disk is compared.",
                disk.path, disk.position, until,
            )  # fmt: skip
            self._begin_comparing(number, until)
        reached = self._make_like_vault(number, until)
        if reached != until:
            self._bring(number, until, timeline)

    def _between(self, timeline: Timeline, since: Position, until: Position) -> Mapping[DiskNumber, Changes] | None:
        """Return the changes, read once for all disks."""
        if (since, until) not in self._changes:
            self._changes[since, until] = changes(self._machine, timeline, since, until)
        return self._changes[since, until]

    def _apply(self, number: DiskNumber, found: Changes, until: Position) -> None:
        disk = self._disk(number)
        target = BehindNotice(self._disks[number])
        if len(found.chunks):
            with self._view(number, until) as (view, key):
                chunks = found.chunks[found.chunks >= HELD // CHUNK]
                for step in compare(view, key, self._disks[number], target, spans_of(chunks)):
                    self._count(step)
        self.figures.written += apply(found.writes, disk.size, target)
        self._flush(disk)
        self._update(number, position=until)

    def _begin_comparing(self, number: DiskNumber, until: Position) -> None:
        self._update(number, phase=Phase.COMPARING, position=until, done=0, touched=0)

    def _make_like_vault(self, number: DiskNumber, until: Position) -> Position:
        """Compare the disk and apply its journals; return the position. That is the position of the beginning, unless
        retention has deleted it meanwhile."""
        disk = self._disk(number)
        assert disk.position is not None
        try:
            opened = self._machine.disks.comparable(disk.position, number)
        except NotFound:
            if disk.position == until:
                raise
            self._begin_comparing(number, until)
            opened = self._machine.disks.comparable(until, number)
        with contextlib.closing(opened[0]):
            if self._disk(number).phase is Phase.COMPARING:
                self._compare(number, *opened)
            self._patch(number, opened[0])
        found = self._disk(number).position
        assert found is not None
        return found

    def _compare(self, number: DiskNumber, view: DiskView, key: bytes) -> None:
        disk = self._disk(number)
        if view.size != disk.size:
            raise Damaged(
                f"Disk {number} has {view.size} bytes now, and had {disk.size} when this began.",
                remedy="Forget the machine and begin again, with a disk of that size.",
            )
        target = BehindNotice(self._disks[number])
        waiting: list[Compared] = []
        begin = disk.done
        for step in compare(view, key, self._disks[number], target, spans(disk.size, max(HELD, disk.done))):
            self._count(step)
            waiting.append(step)
            touched = sum(len(one.touched) for one in waiting)
            if step.end - begin >= self._note_bytes or touched >= _NOTE_TOUCHED:
                self._note(number, waiting)
                begin, waiting = step.end, []
        self._note(number, waiting)
        self._update(number, phase=Phase.PATCHING)

    def _note(self, number: DiskNumber, steps: list[Compared]) -> None:
        if not steps:
            return
        disk = self._disk(number)
        self._flush(disk)
        self._durable("before the list")
        chunks, epochs = (
            np.concatenate(part) for part in zip(*((one.touched, one.epochs) for one in steps), strict=True)
        )
        rows = self._folder.touched(number).add(disk.touched, chunks, epochs)
        self._durable("after the list")
        self._update(number, done=steps[-1].end, touched=rows)

    def _patch(self, number: DiskNumber, view: DiskView) -> None:
        disk = self._disk(number)
        writes = journal_of(view, *self._folder.touched(number).read(disk.touched))
        self.figures.written += apply(writes, disk.size, BehindNotice(self._disks[number]))
        self._flush(disk)
        self._update(number, phase=Phase.FOLLOWING, done=0, touched=0)

    def _release(self, position: Position) -> None:
        """Replace each disk's notice by its own first bytes. Once the notice is gone the machine may run."""
        for disk in self.record.disks:
            if disk.phase is Phase.RELEASED:
                continue
            opened = self._disks[disk.number]
            if self._notice(disk) is not None:
                head = memoryview(bytearray(min(HELD, disk.size)))
                with self._view(disk.number, position) as (view, _):
                    view.read_into(0, head)
                opened.write(NOTICE_BYTES, head[NOTICE_BYTES:])
                self._flush(disk)
                opened.write(0, head[:NOTICE_BYTES])
                self._flush(disk)
                self.figures.written += len(head)
            self._update(disk.number, phase=Phase.RELEASED)

    @contextlib.contextmanager
    def _view(self, number: DiskNumber, position: Position) -> Iterator[tuple[DiskView, bytes]]:
        view, key = self._machine.disks.comparable(position, number)
        try:
            yield view, key
        finally:
            view.close()

    def _count(self, step: Compared) -> None:
        if self._stopping():
            raise Stopped
        self.figures.compared += step.read
        self.figures.written += step.written
