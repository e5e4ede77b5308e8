"""Capture every write to the protected disks: in order, with its bytes; or, if that is impossible, its place.

The mobility service drains the ring while in data mode. If the program had to fall back to the bitmap, the service
drains the rest and calls ``enter_data_mode``, which returns the ring position from which the journal continues. Then
``settled`` returns the blocks that must be copied below that position, once every write to them has ended.
docs/decisions/2026-11-22-capture-order.md explains why no write is lost between the two. Without data mode, ``collect``
returns round by round what was written (rounds/bitmap_run.py). Relies on root, and on a kernel that ``probe`` approved.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Dict, List, Mapping, Optional, Sequence, Set, Tuple, Type

import numpy as np
import numpy.typing as npt

from farshore.mobility.capture.accounting import (
    SAMPLE_AGE,
    Counters,
    Sample,
    State,
    Verdict,
    compare_delivery,
    narrow,
    worst,
)
from farshore.mobility.capture.bitmap import NO_RANGES, Ranges, slot_words_for, union
from farshore.mobility.capture.disks import Disk, buffered_mounts
from farshore.mobility.capture.extents import SectorRange
from farshore.mobility.capture.flights import LOOK_EVERY, Flights
from farshore.mobility.capture.kernel import driver_is_idle, grace_period, keeps_stat, read_stat, sync_file_system
from farshore.mobility.capture.layout import BLOCK_SECTORS, Cause, Control, Protocol
from farshore.mobility.capture.pinned import CHANGED_MAP, MAPS, Document
from farshore.mobility.capture.program import BITMAP_OBJECT, Changed, Program
from farshore.mobility.capture.ring import RecordBatch
from farshore.mobility.capture.watched import WatchedDisks
from farshore.model.errors import NotFound, Refused, TryLater, WrongState
from farshore.model.identifiers import DiskNumber
from farshore.model.states import CaptureMode

log = logging.getLogger(__name__)

DEFAULT_RING_BYTES = 64 << 20
MOST_BITMAP_BYTES = 16 << 20
"""For each of the two slots: 256 GiB of disks at 4 KiB a bit and as much for later; larger disks get coarser bits."""
_NO_RING = 1 << 16
_SECTOR = 512


@dataclass(frozen=True)
class Status:
    """How writes are recorded now. ``since`` is CLOCK_MONOTONIC in ns; ``cause`` is the reason for not being in data
    mode."""

    mode: CaptureMode
    cause: Optional[Cause]
    since: int
    ring_used: int
    """Bytes of the ring that are not released yet."""
    untracked: int
    """Writes that could not be followed to their completion because there were too many, since the start."""
    missed: int
    """Runs of the queue hook that the kernel skipped; the accounts show whether a write was among them."""


@dataclass(frozen=True)
class Entry:
    """An entry into data mode."""

    position: int
    """Ring position: a write that is not in the ring from here on was submitted before data mode began."""
    switched: int
    """By then (monotonic ns) the switch had taken effect on every processor."""
    generation: int


@dataclass(frozen=True)
class Dirty:
    """What data mode starts from."""

    position: int
    """Ring position: the blocks are newer than all records before it, and older than all from it on."""
    blocks: Mapping[DiskNumber, Ranges]
    """For every disk the 4 KiB blocks to copy, read at any time from now on, with O_DIRECT. The read data may be older
    than a record from ``position`` on, of a write that is still in flight, so it must not be placed above that
    record."""


class Capture:
    """The attached capture program. A context manager; closing it ends capture.

    ``drain`` belongs to one thread; everything else may be called from any."""

    def __init__(
        self,
        disks: Mapping[DiskNumber, Disk],
        *,
        ring_bytes: int = DEFAULT_RING_BYTES,
        scratch: Optional[Path] = None,
        bitmap_only: bool = False,
    ) -> None:
        """Begin in bitmap mode. ``ring_bytes`` is a power of two; ``scratch`` is a folder on any disk, in which a file
        may be written.

        ``bitmap_only``: use the program without data mode, for kernels that cannot run the other. Raises Refused or
        Unsupported, with the remedy, if the kernel does not allow it."""
        if ring_bytes & (ring_bytes - 1) or ring_bytes < 1 << 16:
            raise Refused(
                "The ring's size must be a power of two, 64 KiB or more.", remedy="Set ring_bytes to 67108864."
            )
        words = slot_words_for((disk.sectors for disk in disks.values()), MOST_BITMAP_BYTES // 8)
        if bitmap_only:
            self._program = Program(ring_bytes=_NO_RING, slot_words=words, object_path=BITMAP_OBJECT)
        else:
            self._program = Program(ring_bytes=ring_bytes, slot_words=words)
        self._disks = WatchedDisks(self._program)
        self._flights = Flights(self._program, self._disks)
        self._scratch = scratch
        self._lock = threading.RLock()
        self._closed = False
        self._pending: Dict[DiskNumber, List[Ranges]] = {}
        self._last_counts: Dict[DiskNumber, Tuple[float, Counters]] = {}
        self._blind: Set[DiskNumber] = set()
        self._switched = 0
        try:
            self._program.control.since = time.monotonic_ns()
            self._disks.add_first(disks)
            self._program.attach()
            for number in disks:
                self._disks.note_attached(number)
        except BaseException:
            self._program.close()
            raise

    def __enter__(self) -> Capture:
        return self

    def __exit__(
        self, kind: Optional[Type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        self.close()

    def close(self) -> None:
        """End capture. Later calls that ask for its state raise WrongState."""
        with self._lock:
            self._closed = True
            self._program.close()

    # ---- the ring ----

    def drain(self, max_bytes: int, until: Optional[int] = None) -> Optional[RecordBatch]:
        """Return the next records in ring order (dtype layout.RING_RECORD), None if there are none; release them when
        done.

        At most ``max_bytes`` of the ring, and nothing from ring position ``until`` on."""
        return self._program.ring.drain(max_bytes, until)

    @property
    def capacity(self) -> int:
        """Bytes of the ring."""
        return self._program.ring.size

    def position(self) -> int:
        """Return the present ring position: every write submitted before the call, in data mode, is before it."""
        return self._program.ring.position()

    def drained(self) -> int:
        """Return the ring position up to which ``drain`` has read."""
        return self._program.ring.drained()

    # ---- modes ----

    def learn_page_layout(self) -> None:
        """Let the program find where pages are in memory, without which there is no data mode. Raises TryLater."""
        with self._lock:
            self._learn_address()

    @property
    def mode(self) -> CaptureMode:
        """DATA or BITMAP."""
        return CaptureMode.DATA if self._program.in_data_mode() else CaptureMode.BITMAP

    def status(self) -> Status:
        """Return mode, cause, since when, and figures for metrics. Raises WrongState once it is closed."""
        with self._lock:
            self._must_be_open()
            control = self._program.control
            data = self._program.in_data_mode()
            return Status(
                mode=CaptureMode.DATA if data else CaptureMode.BITMAP,
                cause=None if data else Cause(control.cause),
                since=self._switched if data else int(control.since),
                ring_used=self._program.ring.used(),
                untracked=int(control.untracked),
                missed=self._program.missed(),
            )

    def stop_data_mode(self) -> None:
        """Switch to bitmap mode on purpose. The records in the ring remain a valid prefix; no record is added after the
        return."""
        with self._lock:
            self._to_bitmap()

    def at_rest(self) -> bool:
        """Wait, in bitmap mode, until all program runs that began in data mode have ended. Return False if data mode is
        on.

        Until then such a run may add records, however far the ring has been drained, and they are not in the bitmap."""
        with self._lock:
            if self._program.in_data_mode():
                return False
            grace_period()
            return True

    def enter_data_mode(self) -> Entry:
        """Switch to data mode. The blocks below the entry's position are known once it is ``settled``.

        Drain the ring before: at least half of it must be empty. May also be called in data mode, to begin a new epoch
        or to heal blocks whose write failed. Raises TryLater, without any change, if the ring is not drained or the
        kernel's page layout is not known yet."""
        with self._lock:
            self._must_be_open()
            program, ring = self._program, self._program.ring
            if program.bitmap_only:
                raise WrongState(
                    "This capture program has no data mode.", remedy="Load the full program: bitmap_only=False."
                )
            self._learn_address()
            if ring.used() > ring.size // 2:
                raise TryLater(
                    "The capture ring is not drained.", remedy="Drain and release its records, then try again."
                )
            self._to_bitmap()
            # No run is in data mode and none can begin: the ring does not change.
            position = ring.position()
            switched = self._exchange_slots(data=True)
            return Entry(position, switched, program.generation())

    def settled(self, entry: Entry, *, timeout: float = 30.0) -> Dirty:
        """Return what must be copied, once every write that was submitted before ``entry`` has ended.

        Call it again, as often as necessary, if it raises TryLater: writes have not ended within ``timeout`` seconds;
        the message names the oldest. However long they take, nothing is concluded from that. Raises WrongState if data
        mode has ended since ``entry``: nothing is lost, and the next entry returns it."""
        self._wait_ended(entry.switched, timeout, entry)
        with self._lock:
            self._must_be_at(entry)
            return Dirty(entry.position, self._take_pending())

    def begin_data_mode(self, *, timeout: float = 30.0) -> Dirty:
        """Do ``enter_data_mode`` and ``settled`` in one call, for a caller that keeps no journal of the ring meanwhile.

        Raises TryLater, back in bitmap mode and without loss, if earlier writes do not end within ``timeout`` seconds.
        The ring's records until then belong to no journal: drop them."""
        entry = self.enter_data_mode()
        try:
            return self.settled(entry, timeout=timeout)
        except TryLater:
            self.stop_data_mode()
            raise

    def collect(self, *, timeout: float = 30.0) -> Mapping[DiskNumber, Ranges]:
        """Return, in bitmap mode, the blocks of every disk that were written since the last call, and those given back.

        When it returns, every write in the result has reached its disk; writes submitted since the call began may be in
        this result or in the next. Raises TryLater, without loss, if writes do not complete within ``timeout``
        seconds."""
        with self._lock:
            if self._program.in_data_mode():
                raise WrongState("Capture is in data mode.", remedy="Call stop_data_mode first.")
            switched = self._exchange_slots(data=False)
        self._wait_ended(switched, timeout)
        with self._lock:
            return self._take_pending()

    def quiet_position(self, number: DiskNumber, first: int, end: int) -> Optional[int]:
        """Return, in data mode, a ring position such that every write to sectors [first, end) before it has ended;
        None: one is in flight, or that is not known.

        Read the sectors after the call. Then the bytes are those of any later ring position that was requested after
        the reading, if no record up to it touches the sectors and data mode has not ended."""
        with self._lock:
            watched = self._disks.get(number)
            position = self._program.ring.position()
            known = self._flights.knows_strangers(watched) and not self._flights.has_untracked()
            if not known or not self._program.in_data_mode():
                return None
            # A write whose record is before the position was entered in the map before it got its record.
            flights = self._flights.of(watched)
            begins = flights["sector"].astype(np.int64)
            ends = begins + flights["length"] // _SECTOR
            return None if ((begins < end) & (ends > first)).any() else position

    def give_back(self, dirty: Dirty) -> None:
        """Give back blocks that were not copied: the next ``begin_data_mode`` returns them again."""
        with self._lock:
            for number, ranges in dirty.blocks.items():
                self._pending.setdefault(number, []).append(ranges)

    def pin(self, folder: Path) -> Document:
        """Let bitmap mode continue without this process, pinned in ``folder``; return how another process finds the
        dirty blocks."""
        with self._lock:
            self._to_bitmap()
            self._program.pin(folder, MAPS if self._program.bitmap_only else (*MAPS, CHANGED_MAP))
            disks = []
            for number, watched in self._disks.items():
                areas = [(area.first_word, area.words, area.shift) for area in (watched.area, *watched.retired)]
                pending = union(self._pending.get(number, [NO_RANGES]), -(-watched.disk.sectors // BLOCK_SECTORS))
                disks.append(
                    {
                        "number": number,
                        "index": watched.index,
                        "sectors": watched.disk.sectors,
                        "areas": areas,
                        "pending": pending.tolist(),
                    }
                )
            whole_at = Control.whole.offset
            return {
                "folder": str(folder),
                "slot_words": self._program.slot_words,
                "whole_at": whole_at,
                "disks": disks,
            }

    # ---- disks ----

    def add_disk(self, number: DiskNumber, disk: Disk) -> None:
        """Capture another disk, in the same order as the others, from now on.

        Writes to it that were submitted before are waited for when the next entry into data mode is settled.
        """
        with self._lock:
            self._disks.add(number, disk)
            self._disks.note_attached(number)

    def grow_disk(self, number: DiskNumber, disk: Disk) -> None:
        """Take note of a disk's new size."""
        with self._lock:
            self._disks.grow(number, disk)

    def remove_disk(self, number: DiskNumber) -> None:
        """Stop capturing the disk. Its records that are already in the ring are still drained."""
        with self._lock:
            self._disks.remove(number)
            self._pending.pop(number, None)
            self._last_counts.pop(number, None)
            self._blind.discard(number)

    def exclude(self, number: DiskNumber, ranges: Sequence[SectorRange]) -> None:
        """Leave writes that lie wholly within one of these ranges out: all of the disk's exclusions, sorted, disjoint.

        A range that is no longer excluded must be copied by the caller.
        """
        for one, following in zip(ranges, ranges[1:]):
            if one.end > following.start:
                raise Refused("Excluded ranges overlap or are not sorted.", remedy="Join them (extents.join).")
        with self._lock:
            self._disks.exclude(number, ranges)

    # ---- accounts ----

    def newest_command(self) -> Tuple[Protocol, int]:
        """Return protocol and first byte of the newest command, on any disk, that ``Counters.commands`` counts.

        Raises WrongState once the capture is closed.
        """
        with self._lock:
            self._must_be_open()
            protocol, code = divmod(int(self._program.control.command), 256)
            return Protocol(protocol), code

    def changed_in_flight(self, number: DiskNumber, chunk: int) -> int:
        """Return the blocks of a chunk, a bit for each, that changed in memory while their newest write was in flight.

        The disk may hold younger bytes of them than the record, until they are written again: never, if their file is
        deleted before. A block may be named that has not changed. Raises WrongState once the capture is closed.
        """
        with self._lock:
            self._must_be_open()
            return 0 if self._program.bitmap_only else self._program.changed(number, chunk)

    def settle_changed(self, number: DiskNumber, chunks: npt.NDArray[np.int64], before: int) -> None:
        """Record that these chunks equal their copy as of a reading that began at ``before`` (monotonic ns), so earlier
        changes no longer explain a difference. Raises WrongState once the capture is closed."""
        with self._lock:
            self._must_be_open()
            if not self._program.bitmap_only:
                self._program.settle_changed(number, chunks, before)

    def take_over_changed(self, changed: Changed) -> None:
        """Take over an earlier capture's knowledge of blocks that changed in flight (``pinned.changed_before``)."""
        with self._lock:
            self._must_be_open()
            if not self._program.bitmap_only:
                self._program.put_changed(changed)

    def counters(self) -> Mapping[DiskNumber, Counters]:
        """Return the program's counts of each disk since it was added. Raises WrongState once it is closed."""
        with self._lock:
            self._must_be_open()
            return {number: self._disks.counters(number) for number, _ in self._disks.items()}

    def account(self) -> Mapping[DiskNumber, Verdict]:
        """Compare with the kernel's own counts, and what went into the ring with what came out of it.

        Takes one more sample of each disk; call it every second or so. A disk that is gone is UNSETTLED.
        """
        with self._lock:
            verdicts = {}
            for number, watched in self._disks.items():
                if not (self._flights.knows_strangers(watched) or self._flights.is_quiet(number, watched)):
                    verdicts[number] = Verdict(State.UNSETTLED)
                    continue
                taken, before = self._last_counts.get(number) or (time.monotonic(), self._disks.counters(number))
                time.sleep(max(0.0, taken + SAMPLE_AGE - time.monotonic()))
                try:
                    counted = keeps_stat(watched.disk.device)
                    stat = read_stat(watched.disk.device)
                    idle = driver_is_idle(watched.disk.device) and not self._flights.is_flying(number)
                except NotFound:  # it was pulled out: there is nothing to compare with, and the others continue
                    verdicts[number] = Verdict(State.UNSETTLED)
                    continue
                recent = self._disks.counters(number)
                delivered = self._disks.delivered(number)
                after = self._disks.counters(number)
                self._last_counts[number] = time.monotonic(), after
                ledger, seen = narrow(watched.ledger, Sample(before, stat, after, idle, counted))
                came = compare_delivery(recent, delivered, after, watched.undelivered)
                self._disks.note(number, ledger, watched.undelivered + came.gap)
                verdicts[number] = worst(seen, came)
                self._note_blindness(number, watched.disk, verdicts[number].state)
            return verdicts

    # ---- inside ----

    def _note_blindness(self, number: DiskNumber, disk: Disk, state: State) -> None:
        """Log when the blindness begins and ends, however short it is: writes in between were not checked."""
        fields = {"disk": number, "name": disk.name}
        if state is State.BLIND and number not in self._blind:
            self._blind.add(number)
            told = "The kernel does not count writes (queue/iostats), so a gap would not show."
            log.warning(told, extra={"fields": fields})
        elif state in (State.OK, State.UNSETTLED) and number in self._blind:
            self._blind.remove(number)
            log.warning("The kernel counts writes again; those before were not checked.", extra={"fields": fields})

    def _must_be_open(self) -> None:
        """Raise WrongState if it is closed: libbpf would crash on a closed object."""
        if self._closed:
            raise WrongState("The capture has ended.", remedy="Repeat the request once a new capture has begun.")

    def _to_bitmap(self) -> None:
        """Switch to bitmap mode, and wait until no run in data mode is left."""
        program = self._program
        if program.in_data_mode():
            program.set_state(data=False, slot=program.slot(), generation=program.generation())
            program.control.cause = Cause.REQUESTED
            program.control.since = time.monotonic_ns()
        grace_period()

    def _exchange_slots(self, *, data: bool) -> int:
        """Switch to the other slot and the next generation, and keep the content of the old slot. Return when that was
        done."""
        program = self._program
        slot = program.slot()
        program.set_state(data=data, slot=1 - slot, generation=program.generation() + 1)
        self._switched = time.monotonic_ns()
        grace_period()
        # No run uses the old slot or the old generation any longer: later writes are in the new ones.
        switched = time.monotonic_ns()
        for number, ranges in self._disks.collect(slot).items():
            self._pending.setdefault(number, []).append(ranges)
        return switched

    def _take_pending(self) -> Mapping[DiskNumber, Ranges]:
        blocks = {
            number: union(self._pending.get(number, [NO_RANGES]), -(-watched.disk.sectors // BLOCK_SECTORS))
            for number, watched in self._disks.items()
        }
        self._pending.clear()
        return blocks

    def _must_be_at(self, entry: Entry) -> None:
        self._must_be_open()
        if not self._program.in_data_mode() or self._program.generation() != entry.generation:
            raise WrongState("Data mode has ended in the meantime.", remedy="Enter it again.")

    def _wait_ended(self, before: int, timeout: float, entry: Optional[Entry] = None) -> None:
        """Wait until every write that was submitted before ``before`` (monotonic ns) has ended. Raises TryLater."""
        deadline = time.monotonic() + timeout
        while True:
            with self._lock:
                self._must_be_open()
                if entry is not None:
                    self._must_be_at(entry)
                why = self._flights.not_ended(before)
            if why is None:
                return
            if time.monotonic() >= deadline:
                raise why
            time.sleep(LOOK_EVERY)

    # ---- page layout ----

    def _learn_address(self) -> None:
        """Let the program find where a page's bytes are. Any write is enough if the kernel lists the symbols; otherwise
        it must be one of a file system that uses buffer heads."""
        control = self._program.control
        if not control.address and self._scratch is not None:
            _touch(self._scratch / ".farshore-touch")
        if not control.address:
            # Not sync(2): it waits for every mount, and for ever if an NFS server does not answer.
            for mount_point in buffered_mounts():
                with contextlib.suppress(OSError):
                    sync_file_system(mount_point)
        if not control.address:
            raise TryLater(
                "The kernel's page layout is not known yet.",
                remedy="The next write to an ext4 or vfat file system shows it. Until then the bitmap records changes.",
            )
        self._program.stop_learning()


def _touch(path: Path) -> None:
    """Write a block to the disk below. On a full or read-only disk this does nothing, as any other write that does not
    help."""
    with contextlib.suppress(OSError):
        try:
            with path.open("wb", buffering=0) as file:
                file.write(os.urandom(512))
                os.fsync(file.fileno())
        finally:
            path.unlink()
