"""Capture: every write to the protected disks, in order, with its bytes; or, failing that, where it went.

The mobility service drains the ring while in data mode. When the program had to fall back to the bitmap, the service
drains what is left, opens a new epoch and calls ``begin_data_mode``, which says from which ring position on the new
epoch's journal runs and which blocks its base must copy. docs/decisions/2026-11-22-capture-order.md argues why nothing
falls between the two. Where data mode is not to be had, ``collect`` tells round by round what was written
(rounds/bitmap_run.py). Relies on root, and on a kernel that ``probe`` approved of.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Callable, Dict, List, Mapping, Optional, Sequence, Tuple, Type

import numpy as np

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
from farshore.mobility.capture.disks import Disk
from farshore.mobility.capture.extents import SectorRange
from farshore.mobility.capture.kernel import grace_period, read_stat, request_timeout, writes_in_flight
from farshore.mobility.capture.layout import BLOCK_SECTORS, GENERATIONS, Cause, Control
from farshore.mobility.capture.pinned import MAPS, Document
from farshore.mobility.capture.program import BITMAP_OBJECT, Program
from farshore.mobility.capture.ring import RecordBatch
from farshore.mobility.capture.watched import WatchedDisks
from farshore.model.errors import NotFound, Refused, TryLater, WrongState
from farshore.model.identifiers import DiskNumber
from farshore.model.states import CaptureMode

DEFAULT_RING_BYTES = 64 << 20
MOST_BITMAP_BYTES = 16 << 20
"""Of each of the two slots: 256 GiB of disks at 4 KiB a bit and as much for later; larger disks get coarser bits."""
_NO_RING = 1 << 16
_IDLE_LOOKS = 3
_STRANGER_QUIET = 5.0
_STUCK = 1.0
_GIVEN_UP_TIMEOUTS = 2
_LOOK_EVERY = 0.002


@dataclass(frozen=True)
class Status:
    """How writes are kept now. ``since`` is CLOCK_MONOTONIC in ns; ``cause`` says why not in data mode."""

    mode: CaptureMode
    cause: Optional[Cause]
    since: int
    ring_used: int
    """Bytes of the ring that are not released yet."""
    untracked: int
    """Writes too many to follow to their completion, since the start."""
    missed: int
    """Runs of the queue hook that the kernel skipped; the accounts tell whether a write was among them."""


@dataclass(frozen=True)
class Dirty:
    """What a new epoch starts from."""

    position: int
    """Ring position: records before it end the old epoch, those from it on are the new epoch's journal."""
    blocks: Mapping[DiskNumber, Ranges]
    """For every disk the 4 KiB blocks to copy into the new epoch's base, read any time from now, with O_DIRECT."""


class Capture:
    """The capture program, attached. A context manager; closing it ends capture.

    ``drain`` belongs to one thread; everything else may be called from any.
    """

    def __init__(
        self,
        disks: Mapping[DiskNumber, Disk],
        *,
        ring_bytes: int = DEFAULT_RING_BYTES,
        scratch: Optional[Path] = None,
        bitmap_only: bool = False,
    ) -> None:
        """Begin in bitmap mode. ``ring_bytes`` is a power of two; ``scratch`` a folder on any disk to touch a file in.

        ``bitmap_only``: with the program that has no data mode, for kernels that cannot run the other.
        Raises Refused or Unsupported, with the remedy, where the kernel does not let us.
        """
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
        self._scratch = scratch
        self._lock = threading.RLock()
        self._closed = False
        self._pending: Dict[DiskNumber, List[Ranges]] = {}
        self._last_counts: Dict[DiskNumber, Tuple[float, Counters]] = {}
        self._switched = 0
        self._newest_attach = 0.0
        self._strangers_gone = False
        self._untracked_landed = 0
        self._given_up_after = _GIVEN_UP_TIMEOUTS * max(
            (request_timeout(disk.device) for disk in disks.values()), default=30.0
        )
        try:
            self._program.control.since = time.monotonic_ns()
            self._disks.add_first(disks)
            self._program.attach()
            self._newest_attach = time.monotonic()
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
        """End capture. Whoever asks how it stands afterwards is told WrongState."""
        with self._lock:
            self._closed = True
            self._program.close()

    # ---- the ring ----

    def drain(self, max_bytes: int, until: Optional[int] = None) -> Optional[RecordBatch]:
        """The next records in ring order (dtype layout.RING_RECORD), None if there are none; release it when done.

        At most ``max_bytes`` of the ring, and nothing from ring position ``until`` on.
        """
        return self._program.ring.drain(max_bytes, until)

    def position(self) -> int:
        """The ring position now: every write submitted before the call, in data mode, lies before it."""
        return self._program.ring.position()

    def drained(self) -> int:
        """How far ``drain`` has come: a ring position."""
        return self._program.ring.drained()

    # ---- modes ----

    def learn_page_layout(self) -> None:
        """Have the program find where pages lie in memory, without which there is no data mode. Raises TryLater."""
        with self._lock:
            self._learn_address()

    @property
    def mode(self) -> CaptureMode:
        """DATA or BITMAP."""
        return CaptureMode.DATA if self._program.in_data_mode() else CaptureMode.BITMAP

    def status(self) -> Status:
        """Mode, cause, since when, and figures for metrics. Raises WrongState once it is closed."""
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
        """Go to bitmap mode on purpose. What is in the ring stays a valid prefix; no record comes after the return."""
        with self._lock:
            self._to_bitmap()

    def begin_data_mode(self, *, timeout: float = 30.0) -> Dirty:
        """Switch to data mode; return when every write submitted before the switch has completed.

        Drain the ring before: it must be half empty at least. May also be called in data mode, to begin a new epoch or
        to heal blocks whose write failed. Raises TryLater if the ring is not drained or the kernel's page layout is
        not known yet; also, back in bitmap mode and with nothing forgotten, if earlier writes do not complete within
        ``timeout`` seconds.
        """
        with self._lock:
            deadline = time.monotonic() + timeout
            if self._program.bitmap_only:
                raise WrongState("This program has no data mode.", remedy="Use the one that has: bitmap_only=False.")
            self._learn_address()
            ring = self._program.ring
            if ring.used() > ring.size // 2:
                raise TryLater(
                    "The capture ring is not drained.", remedy="Drain and release its records, then try again."
                )
            self._to_bitmap()
            program = self._program
            generation, slot = program.generation() + 1, program.slot()
            # No run is in data mode and none can get there: the ring stands still.
            position = ring.position()
            program.set_state(data=True, slot=1 - slot, generation=generation)
            try:
                self._exchange_slots(slot, generation, deadline)
            except TryLater:
                self._to_bitmap()
                raise
            return Dirty(position, self._take_pending())

    def collect(self, *, timeout: float = 30.0) -> Mapping[DiskNumber, Ranges]:
        """In bitmap mode: for every disk the blocks written to since the last call (or since they were given back).

        When it returns, every write that it tells of has landed; those submitted since the call began may be told of
        now or next time. Raises TryLater, with nothing forgotten, if writes do not complete within ``timeout`` seconds.
        """
        with self._lock:
            deadline = time.monotonic() + timeout
            program = self._program
            if program.in_data_mode():
                raise WrongState("Capture is in data mode.", remedy="Call stop_data_mode first.")
            generation, slot = program.generation() + 1, program.slot()
            program.set_state(data=False, slot=1 - slot, generation=generation)
            self._exchange_slots(slot, generation, deadline)
            return self._take_pending()

    def give_back(self, dirty: Dirty) -> None:
        """These blocks were not copied after all: the next ``begin_data_mode`` returns them again."""
        with self._lock:
            for number, ranges in dirty.blocks.items():
                self._pending.setdefault(number, []).append(ranges)

    def pin(self, folder: Path) -> Document:
        """Have bitmap mode go on without this process, pinned in ``folder``; how another one finds the dirty blocks.

        Drain the ring before. Raises Refused, Unsupported.
        """
        with self._lock:
            self._to_bitmap()
            self._program.pin(folder, MAPS)
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

        Writes to it that were submitted before are waited for by the next ``begin_data_mode``.
        """
        with self._lock:
            self._disks.add(number, disk)
            self._newest_attach = time.monotonic()
            self._strangers_gone = False

    def grow_disk(self, number: DiskNumber, disk: Disk) -> None:
        """Take note of a disk's new size."""
        with self._lock:
            self._disks.grow(number, disk)

    def remove_disk(self, number: DiskNumber) -> None:
        """Capture the disk no more. Its records that are in the ring already still come."""
        with self._lock:
            self._disks.remove(number)
            self._pending.pop(number, None)
            self._last_counts.pop(number, None)

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

    def counters(self) -> Mapping[DiskNumber, Counters]:
        """The program's counts of each disk since it was added. Raises WrongState once it is closed."""
        with self._lock:
            self._must_be_open()
            return {number: self._disks.counters(number) for number, _ in self._disks.items()}

    def account(self) -> Mapping[DiskNumber, Verdict]:
        """Compare with the kernel's own counts, and what went into the ring with what came out of it.

        Takes one more sample of each disk; call it every second or so. A disk that is gone is UNSETTLED.
        """
        with self._lock:
            if not self._no_strangers():
                return {number: Verdict(State.UNSETTLED) for number, _ in self._disks.items()}
            verdicts = {}
            for number, watched in self._disks.items():
                taken, before = self._last_counts.get(number) or (time.monotonic(), self._disks.counters(number))
                time.sleep(max(0.0, taken + SAMPLE_AGE - time.monotonic()))
                try:
                    stat = read_stat(watched.disk.device)
                    idle = writes_in_flight(watched.disk.device) == 0
                except NotFound:  # it was pulled out: there is nothing to compare with, and the others go on
                    verdicts[number] = Verdict(State.UNSETTLED)
                    continue
                recent = self._disks.counters(number)
                delivered = self._disks.delivered(number)
                after = self._disks.counters(number)
                self._last_counts[number] = time.monotonic(), after
                ledger, seen = narrow(watched.ledger, Sample(before, stat, after, idle))
                came = compare_delivery(recent, delivered, after, watched.undelivered)
                self._disks.note(number, ledger, watched.undelivered + came.gap)
                verdicts[number] = worst(seen, came)
            return verdicts

    # ---- inside ----

    def _must_be_open(self) -> None:
        """What libbpf would do with an object that is closed is crash."""
        if self._closed:
            raise WrongState("The capture has ended.", remedy="Ask again once another one has begun.")

    def _to_bitmap(self) -> None:
        """Bitmap mode, and no run in data mode left."""
        program = self._program
        if program.in_data_mode():
            program.set_state(data=False, slot=program.slot(), generation=program.generation())
            program.control.cause = Cause.REQUESTED
            program.control.since = time.monotonic_ns()
        grace_period()

    def _exchange_slots(self, slot: int, generation: int, deadline: float) -> None:
        """After the state word named the other slot and a new generation: what the old slot tells of, once landed."""
        self._switched = time.monotonic_ns()
        grace_period()
        # No run uses the old slot or the old generation any more.
        for number, ranges in self._disks.collect(slot).items():
            self._pending.setdefault(number, []).append(ranges)
        self._wait(deadline, lambda: self._earlier_writes_landed(generation))
        self._wait(deadline, self._no_strangers)

    def _take_pending(self) -> Mapping[DiskNumber, Ranges]:
        blocks = {
            number: union(self._pending.get(number, [NO_RANGES]), -(-watched.disk.sectors // BLOCK_SECTORS))
            for number, watched in self._disks.items()
        }
        self._pending.clear()
        return blocks

    def _wait(self, deadline: float, done: Callable[[], bool]) -> None:
        while not done():
            if time.monotonic() >= deadline:
                raise TryLater(
                    "Writes that were submitted before the bitmap was read have not completed.",
                    remedy="Try again; on a disk that is never idle freeze its file systems for the moment (fsfreeze).",
                )
            time.sleep(_LOOK_EVERY)

    def _earlier_writes_landed(self, generation: int) -> bool:
        """Have all writes of earlier generations completed?

        The hook sees nearly every completion; one that it does not see (interrupts may nest) looks like a write still
        in flight, until the disk is idle for a moment or the write is older than any request can get.
        """
        flights = self._program.flying()
        flights = flights[flights["generation"] != generation % GENERATIONS]
        ages = time.monotonic_ns() - flights["time"].astype(np.int64)
        # The kernel gives a request up long before it is this old: it is the completion that we did not see.
        flights = flights[ages < self._given_up_after * 1e9]
        untracked = int(self._program.control.untracked)
        if len(flights) or untracked != self._untracked_landed:
            # Either they are still at it, or the hook missed a completion or had no room to follow a write.
            if time.monotonic() - self._switched / 1e9 < _STUCK or not self._idle():
                return False
            self._untracked_landed = untracked
        return True

    def _no_strangers(self) -> bool:
        """Have the writes landed that were submitted before we were attached? They are in none of our counts.

        Yes at an instant at which the disks do nothing. On disks that are never idle: when none has completed for
        some seconds, longer than a working disk takes for a write.
        """
        if not self._strangers_gone:
            last = self._program.control.last_stranger / 1e9
            quiet = time.monotonic() - max(last, self._newest_attach) > _STRANGER_QUIET
            self._strangers_gone = quiet or self._idle()
        return self._strangers_gone

    def _idle(self) -> bool:
        devices = [watched.disk.device for _, watched in self._disks.items()]
        for look in range(_IDLE_LOOKS):
            if look:
                time.sleep(_LOOK_EVERY)
            if any(_busy(device) for device in devices):
                return False
        return True

    def _learn_address(self) -> None:
        """Have the program find where a page's bytes lie; any write does if the kernel lists the symbols, else one
        of a file system that uses buffer heads."""
        control = self._program.control
        if not control.address and self._scratch is not None:
            _touch(self._scratch / ".farshore-touch")
        if not control.address:
            os.sync()
        if not control.address:
            raise TryLater(
                "The kernel's page layout is not known yet.",
                remedy="It shows with the next write to an ext4 or vfat file system; until then the bitmap protects.",
            )
        self._program.stop_learning()


def _busy(device: str) -> bool:
    """Whether writes are under way; a disk that is gone works on none."""
    try:
        return writes_in_flight(device) > 0
    except NotFound:
        return False


def _touch(path: Path) -> None:
    """Have a block written to the disk below. On a disk that is full or read-only nothing shows, as with any other
    write that teaches nothing."""
    with contextlib.suppress(OSError):
        try:
            with path.open("wb", buffering=0) as file:
                file.write(os.urandom(512))
                os.fsync(file.fileno())
        finally:
            path.unlink()
