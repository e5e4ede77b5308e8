"""Which writes may still be in flight, according to the program's map and the kernel; never concluded from elapsed
time."""

from __future__ import annotations

import time
from typing import Any, Optional

import numpy as np
import numpy.typing as npt

from farshore.mobility.capture.accounting import Sample, State, all_counted, narrow
from farshore.mobility.capture.disks import Disk
from farshore.mobility.capture.kernel import driver_is_idle, grace_period, keeps_stat, read_stat
from farshore.mobility.capture.program import Program
from farshore.mobility.capture.watched import Watched, WatchedDisks
from farshore.model.errors import NotFound, TryLater
from farshore.model.identifiers import DiskNumber

LOOK_EVERY = 0.002
_IDLE_LOOKS = 3
_STRANGER_NANOSECONDS = 5 * 10**9
_ENDS = "The copy continues automatically as soon as they are known to have ended."


class Flights:
    """The writes of all disks between submission and completion. The caller holds the capture's lock."""

    def __init__(self, program: Program, disks: WatchedDisks) -> None:
        self._program, self._disks = program, disks
        self._untracked_landed = 0

    def not_ended(self, before: int) -> Optional[TryLater]:
        """Return why a write that was submitted before ``before`` may still change a disk unnoticed; None: none can.

        The program's map of writes in flight lacks none, except a few for which there was no space. It may contain
        extra ones, because a completion may bypass the hook: then the kernel is asked for a moment without any. The
        duration of a write proves nothing. Writes from before the hook was attached are not in the map. On most disks
        the program falls back to the bitmap when one of them ends; on the others they are waited for too."""
        counted = int(self._program.control.untracked)  # before the disks are asked: nothing is known of later ones
        untracked = counted != self._untracked_landed
        for number, watched in self._disks.items():
            flights = self.of(watched)
            flights = flights[flights["time"] < before]
            strangers = not self.knows_strangers(watched) or self._may_soon_end(watched)
            if not len(flights) and not untracked and not strangers:
                continue
            if self.is_quiet(number, watched):
                continue
            return _in_flight(watched.disk, flights) if len(flights) else _never_idle(watched.disk)
        if untracked:  # every disk has been quiet since
            self._untracked_landed = counted
        return None

    def has_untracked(self) -> bool:
        return int(self._program.control.untracked) != self._untracked_landed

    def knows_strangers(self, watched: Watched) -> bool:
        """Return whether a write that was submitted before the hooks were attached cannot end unnoticed."""
        return watched.by_request or watched.ended_before >= watched.attached

    def _may_soon_end(self, watched: Watched) -> bool:
        """Return whether to wait for such writes, rather than fall back in a moment. Nothing else depends on this."""
        if watched.ended_before >= watched.attached:
            return False
        return time.monotonic_ns() < watched.attached + _STRANGER_NANOSECONDS

    def of(self, watched: Watched) -> npt.NDArray[Any]:
        """Return writes to a disk that have been submitted and are not known to have ended."""
        flights = self._program.flying()
        under_way: npt.NDArray[Any] = flights[
            (flights["index"] == watched.index) & (flights["time"] >= watched.ended_before)
        ]
        return under_way

    def is_flying(self, number: DiskNumber) -> bool:
        """Return whether a write may be in progress that the driver does not have: in an I/O scheduler, or put back by
        SCSI."""
        watched = self._disks.get(number)
        return bool(len(self.of(watched))) and not self.is_quiet(number, watched)

    def is_quiet(self, number: DiskNumber, watched: Watched) -> bool:
        """Ask the kernel for a moment at which every write to the disk has ended. Record it if there is one.

        The driver must be seen idle repeatedly, with nothing submitted in between. A request may still be held back
        from the driver, by an I/O scheduler, a preempted task's plug or SCSI's error recovery. Exact accounts show
        that. If they are not exact they are made exact here: later completions then show as a gap."""
        device = watched.disk.device
        try:
            if not driver_is_idle(device):
                return False
        except NotFound:
            pass
        asked = time.monotonic_ns()
        # A run that began before may have lost its processor before it counted its write, or entered it in the map.
        grace_period()
        first = self._disks.counters(number)
        try:
            for look in range(_IDLE_LOOKS):
                if look:
                    time.sleep(LOOK_EVERY)
                if not driver_is_idle(device):
                    return False
            stat = read_stat(device)
        except NotFound:  # a disk that is gone works on nothing
            self._disks.note_ended(number, asked)
            return True
        last = self._disks.counters(number)
        if first.bios != last.bios or not all_counted(watched.ledger, stat, last):
            return False
        ledger, verdict = narrow(watched.ledger, Sample(last, stat, last, idle=True))
        if verdict.state is State.OK:  # the next account shows anything else
            self._disks.note(number, ledger, watched.undelivered)
        self._disks.note_ended(number, asked)
        return True


def _keeps_stat(device: str) -> bool:
    try:
        return keeps_stat(device)
    except NotFound:
        return True


def _in_flight(disk: Disk, flights: npt.NDArray[Any]) -> TryLater:
    oldest = flights[np.argmin(flights["time"])]
    seconds = (time.monotonic_ns() - int(oldest["time"])) / 1e9
    return TryLater(
        f"Disk {disk.name} has not completed {len(flights)} earlier write(s). The oldest, {int(oldest['length'])} "
        f"bytes at sector {int(oldest['sector'])}, has been in flight for {seconds:.0f} s.",
        remedy=f"Check the disk (dmesg, multipath -ll, iscsiadm -m session). {_ENDS}",
    )


def _never_idle(disk: Disk) -> TryLater:
    if not _keeps_stat(disk.device):
        return TryLater(
            f"It is not known whether disk {disk.name} has completed earlier writes: its statistics are off.",
            remedy=f"Turn them on: echo 1 > /sys/block/{disk.name}/queue/iostats",
        )
    return TryLater(
        f"Disk {disk.name} has not been idle since capture began, so earlier writes may still be in flight.",
        remedy=f"Pause the programs that use it for a moment, or freeze its file systems (fsfreeze). {_ENDS}",
    )
