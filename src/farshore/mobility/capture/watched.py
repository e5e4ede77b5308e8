"""The disks that the capture program watches: their places in its maps, and their dirty blocks.

Keeps the program's disk entries, the bitmap areas and the exclusions consistent. Every change reaches the program as
one replaced map element. A grace period follows before anything that the old element referred to is used again.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from typing import Dict, List, Mapping, Optional, Sequence, Tuple

import numpy as np

from farshore.mobility.capture.accounting import Counters, Ledger
from farshore.mobility.capture.bitmap import SMALLEST_SHIFT, Area, Ranges, dirty_ranges, place, shift_for, union
from farshore.mobility.capture.disks import Disk
from farshore.mobility.capture.extents import SectorRange
from farshore.mobility.capture.kernel import grace_period, works_on_requests
from farshore.mobility.capture.layout import (
    BLOCK_SECTORS,
    COUNTERS,
    MAX_DISKS,
    MAX_EXCLUSIONS,
    DiskEntry,
)
from farshore.mobility.capture.program import Program
from farshore.model.errors import NotFound, Refused
from farshore.model.identifiers import DiskNumber


@dataclass(frozen=True)
class _Span:
    first: int = 0
    count: int = 0


@dataclass(frozen=True)
class Watched:
    """One disk; ``retired`` are areas that became too small and whose bits have not been collected yet."""

    disk: Disk
    index: int
    area: Area
    retired: Tuple[Area, ...] = ()
    by_request: bool = False
    """The program sees each of its requests, and so also the end of a write whose beginning it did not see."""
    exclusions: _Span = field(default_factory=_Span)
    ledger: Ledger = field(default_factory=Ledger)
    undelivered: int = 0
    """Bytes of records that are known never to have come out of the ring."""
    attached: int = 0
    """When the program had begun to see the disk's writes (monotonic ns): earlier ones are not in its maps."""
    ended_before: int = 0
    """Every write to the disk that was submitted before this moment (monotonic ns) has ended, according to the kernel;
    0: not asked."""
    delivered_before: int = 0
    """Bytes that the ring had delivered under this number before the disk was added."""


class WatchedDisks:
    """All of them, by number. Not thread-safe: ``Capture`` holds the lock."""

    def __init__(self, program: Program) -> None:
        self._program = program
        self._disks: Dict[DiskNumber, Watched] = {}

    def items(self) -> List[Tuple[DiskNumber, Watched]]:
        """Return a snapshot."""
        return sorted(self._disks.items())

    def get(self, number: DiskNumber) -> Watched:
        """Raises NotFound for a disk that is not watched."""
        try:
            return self._disks[number]
        except KeyError:
            raise NotFound(f"Disk {number} is not captured.", remedy="Add the disk first.") from None

    def add_first(self, disks: Mapping[DiskNumber, Disk]) -> None:
        """Watch these disks, sharing the bitmap fairly."""
        shift = shift_for([disk.sectors for disk in disks.values()], self._program.slot_words)
        for number, disk in disks.items():
            self.add(number, disk, shift)

    def add(self, number: DiskNumber, disk: Disk, shift: int = SMALLEST_SHIFT) -> None:
        """Watch a disk from now on; a bit of the bitmap stands for at least 2**shift sectors.

        Raises Refused if it, or its number, is watched already or there are too many."""
        if number in self._disks or any(one.disk.device == disk.device for one in self._disks.values()):
            raise Refused(f"Disk {disk.name} ({number}) is captured already.", remedy="Remove it first.")
        free = set(range(MAX_DISKS)) - {one.index for one in self._disks.values()}
        if not free:
            raise Refused(
                f"No more than {MAX_DISKS} disks can be captured.",
                remedy="Exclude a disk: farshore machine protect NAME --exclude-disk NUMBER",
            )
        area = place(disk.sectors, self._areas(), self._program.slot_words, shift)
        watched = Watched(
            disk,
            min(free),
            area,
            by_request=not self._program.bitmap_only and works_on_requests(disk.device),
            delivered_before=self._program.ring.delivered(number) or 0,
        )
        self._program.clear_counters(watched.index)
        self._disks[number] = watched
        self._publish(number)

    def grow(self, number: DiskNumber, disk: Disk) -> None:
        """Give a disk whose size has changed an area that covers it."""
        old = self.get(number)
        area = place(disk.sectors, self._areas(), self._program.slot_words)
        self._disks[number] = replace(old, disk=disk, area=area, retired=(*old.retired, old.area))
        self._publish(number)

    def remove(self, number: DiskNumber) -> None:
        """Stop watching it, and drop its dirty blocks."""
        watched = self.get(number)
        self._program.remove_disk(_key(watched.disk))
        grace_period()
        for slot in self._program.slots:
            for area in (watched.area, *watched.retired):
                slot[area.first_word : area.first_word + area.words] = 0
        # Not in the slot in use, because the program may set another disk's bit in between. A bit that remains there
        # marks the next disk in this place as completely dirty, which an added disk is anyway.
        self._program.control.whole[1 - self._program.slot()] &= ~(1 << watched.index)
        del self._disks[number]
        self._note_namespaces()

    def exclude(self, number: DiskNumber, ranges: Sequence[SectorRange]) -> None:
        """Exclude exactly these sorted, disjoint ranges of the disk from now on."""
        watched = self.get(number)
        span = _Span(self._free_exclusions(len(ranges)), len(ranges))
        for i, one in enumerate(ranges):
            self._program.put_exclusion(span.first + i, one.start, one.end)
        self._disks[number] = replace(watched, exclusions=span)
        self._publish(number)

    def note(self, number: DiskNumber, ledger: Ledger, undelivered: int) -> None:
        """Keep a disk's accounts."""
        self._disks[number] = replace(self._disks[number], ledger=ledger, undelivered=undelivered)

    def note_attached(self, number: DiskNumber) -> None:
        """Note that all hooks see the disk from now on."""
        self._disks[number] = replace(self._disks[number], attached=time.monotonic_ns())

    def note_ended(self, number: DiskNumber, before: int) -> None:
        """Note that all writes to the disk that were submitted before ``before`` have ended."""
        self._disks[number] = replace(self._disks[number], ended_before=before)

    def delivered(self, number: DiskNumber) -> Optional[int]:
        """Return the number of bytes of the disk's records that came out of the ring since it was added, or None if
        some are still in it."""
        total = self._program.ring.delivered(number)
        return None if total is None else total - self._disks[number].delivered_before

    def counters(self, number: DiskNumber) -> Counters:
        """Return the program's counts of a disk."""
        record = self._program.counters(self.get(number).index)
        return Counters(**{name: int(record[name]) for name in COUNTERS.names or ()})

    def collect(self, slot: int) -> Mapping[DiskNumber, Ranges]:
        """Return the dirty blocks in a slot that no program run uses any longer; the slot is clear afterwards."""
        words = self._program.slots[slot]
        whole = int(self._program.control.whole[slot])
        found: Dict[DiskNumber, Ranges] = {}
        for number, watched in self._disks.items():
            blocks = -(-watched.disk.sectors // BLOCK_SECTORS)
            ranges = []
            for area in (watched.area, *watched.retired):
                own = words[area.first_word : area.first_word + area.words]
                ranges.append(dirty_ranges(own, area.shift, watched.disk.sectors))
                own[:] = 0
            if whole >> watched.index & 1:
                ranges.append(np.array([[0, blocks]], np.int64))
            found[number] = union(ranges, blocks)
            self._disks[number] = replace(watched, retired=())
        self._program.control.whole[slot] = 0
        return found

    def _publish(self, number: DiskNumber) -> None:
        watched = self._disks[number]
        entry = DiskEntry(
            number=number,
            index=watched.index,
            first_word=watched.area.first_word,
            words=watched.area.words,
            shift=watched.area.shift,
            first_exclusion=watched.exclusions.first,
            exclusions=watched.exclusions.count,
            by_request=watched.by_request,
        )
        self._note_namespaces()
        self._program.put_disk(_key(watched.disk), entry)
        grace_period()

    def _note_namespaces(self) -> None:
        """Note the namespaces: commands to an NVMe controller, and to the paths of its namespaces, name no watched
        disk."""
        nvme = {1 << one.index: one.disk.device for one in self._disks.values() if one.disk.name.startswith("nvme")}
        self._program.control.nvme = sum(nvme)
        self._program.control.by_paths = sum(bit for bit, device in nvme.items() if not works_on_requests(device))

    def _areas(self) -> List[Area]:
        return [area for one in self._disks.values() for area in (one.area, *one.retired)]

    def _free_exclusions(self, count: int) -> int:
        at = 0
        for span in sorted((one.exclusions for one in self._disks.values()), key=lambda one: one.first):
            if span.count and span.first - at < count:
                at = max(at, span.first + span.count)
        if at + count > MAX_EXCLUSIONS:
            raise Refused(
                f"{count} excluded ranges are too many: the limit over all disks is {MAX_EXCLUSIONS}.",
                remedy="Defragment the excluded files, or recreate them on an emptier file system.",
            )
        return at


def _key(disk: Disk) -> int:
    return disk.major << 32 | disk.minor
