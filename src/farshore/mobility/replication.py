"""Keeps this machine's stream going: which epoch comes next, and when there is none to be.

Reconciles what the configuration server wants with what is. The rules for the next epoch:

- the first of a run is a RESYNC (the server makes it INITIAL where the vault has nothing to compare with);
- after an overflow, a HEAL on top of the epoch that ended with it: only dirty blocks are copied;
- after anything else, a RESYNC.

The capture lives as long as the set of disks stays the same, so that its bitmap spans the time between two epochs.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from dataclasses import dataclass
from typing import Callable, List, Optional, Sequence, Tuple

from farshore.api_types.machines import Desired, EpochGrant, EpochKind, EpochRequest
from farshore.client.data_plane import DataPlane
from farshore.client.machine_self import MachineSelf
from farshore.mobility.capture.capture import Capture
from farshore.mobility.description import describe
from farshore.mobility.epoch_run import Ended, EpochEnd, EpochRun, Limits
from farshore.mobility.protected_disks import DiskNumbers, ProtectedDisk, disks_seen, protected_disks, spill_is_safe
from farshore.mobility.settings import Settings
from farshore.mobility.spill import HrlFile
from farshore.model.errors import FarshoreError, NoSpace
from farshore.model.identifiers import MachineId
from farshore.model.ports import Clock
from farshore.model.position import Position

log = logging.getLogger(__name__)

_LOOK_SECONDS = 10.0
_PAUSE_SECONDS = 2.0
_LONGEST_PAUSE = 60.0


@dataclass(frozen=True)
class Next:
    """The epoch to ask for. ``parent`` is for a HEAL only."""

    kind: EpochKind = EpochKind.RESYNC
    parent: Optional[Position] = None


def after(ended: Ended) -> Next:
    """What follows the end of an epoch."""
    return Next(EpochKind.HEAL, ended.position) if ended.why is EpochEnd.OVERFLOW else Next()


class Replication:
    """``run`` is the service's main thread; ``want``, ``resync`` and the properties are for others."""

    def __init__(
        self,
        machine: MachineId,
        run: str,
        settings: Settings,
        server: MachineSelf,
        planes: Callable[[EpochGrant], DataPlane],
        clock: Clock,
        limits: Limits,
    ) -> None:
        self._machine = machine
        self._run = run
        self._settings = settings
        self._server = server
        self._planes = planes
        self._clock = clock
        self._limits = limits
        self._numbers = DiskNumbers(settings.disk_numbers)
        self._desired: Optional[Desired] = None
        self._changed = threading.Event()
        self._interrupt = threading.Event()
        self._capture: Optional[Capture] = None
        self._spill: Optional[HrlFile] = None
        self._next = Next()
        self._pause = _PAUSE_SECONDS
        self.disks: List[ProtectedDisk] = []
        self.current: Optional[EpochRun] = None
        self.capture_started: int = 0
        self.trouble = ""
        """Why there is no stream now; empty when there is one."""

    @property
    def capture(self) -> Optional[Capture]:
        """The capture, while there is one."""
        return self._capture

    def want(self, desired: Desired) -> None:
        """What the server wants now."""
        before, self._desired = self._desired, desired
        self._limits.bandwidth.limit = desired.bandwidth_limit
        self._limits.courtesy.share = desired.cpu_share
        if before is None or _wanted(before) != _wanted(desired):
            self._changed.set()
            self._interrupt.set()

    def resync(self) -> None:
        """Begin again by hash, now."""
        self._next = Next()
        self._interrupt.set()

    def interrupt(self) -> None:
        """End what is under way and look again at what is wanted."""
        self._interrupt.set()
        self._changed.set()

    def run(self, stop: threading.Event) -> None:
        """Until ``stop``."""
        watcher = threading.Thread(target=self._pass_on, args=(stop,), daemon=True)
        watcher.start()
        try:
            while not stop.is_set():
                self._interrupt.clear()
                desired = self._desired
                if desired is None or not _wanted(desired)[0]:
                    self._stop_capture("" if desired is None else "The configuration server asks for none.")
                    self._changed.wait(_LOOK_SECONDS)
                    self._changed.clear()
                    continue
                try:
                    self._epoch(desired)
                    self._pause = _PAUSE_SECONDS
                except FarshoreError as error:
                    self._trouble(error)
                    self._interrupt.wait(self._pause)
                    self._pause = min(_LONGEST_PAUSE, self._pause * 2)
        finally:
            self._stop_capture("The service ends.")
            if self._spill is not None:
                self._spill.close()

    def _epoch(self, desired: Desired) -> None:
        capture = self._captured(desired)
        request = EpochRequest(
            run=self._run,
            kind=self._next.kind,
            description=describe(self.disks),
            parent_epoch=self._next.parent.epoch if self._next.parent else 0,
            parent_sequence=self._next.parent.sequence if self._next.parent else 0,
        )
        grant = self._server.open_epoch(request)
        plane = self._planes(grant)
        try:
            copied = [one.copied() for one in self.disks]
            run = EpochRun(self._machine, grant, capture, copied, plane, self._spill, self._clock, self._limits)
            self.current, self.trouble = run, ""
            ended = run.run(self._interrupt)
        finally:
            self.current = None
            plane.close()
        self._next = after(ended)
        log.info(
            "Epoch ended.",
            extra={"fields": {"at": ended.position, "why": ended.why.value, "next": self._next.kind.value}},
        )
        if ended.why is EpochEnd.ESCAPED:
            self._stop_capture("")  # its accounts begin anew
        if ended.why in (EpochEnd.REFUSED, EpochEnd.FAILED):
            self.trouble = ended.cause
            self._interrupt.wait(self._pause)
            self._pause = min(_LONGEST_PAUSE, self._pause * 2)

    def _captured(self, desired: Desired) -> Capture:
        """The capture of the disks as they are now; a new one where they have changed."""
        self._open_spill()
        spill = None if self._spill is None else self._spill.path
        disks = protected_disks(self._numbers, self._settings.disks, spill, desired.exclude_disks)
        if self._capture is not None and disks == self.disks:
            return self._capture
        self._stop_capture("")
        self._next = Next()
        self.disks = disks
        capture = Capture(
            {one.number: one.disk for one in disks}, ring_bytes=self._settings.ring_bytes, scratch=self._settings.state
        )
        self._capture = capture
        self.capture_started = self._clock.now()
        for one in disks:
            capture.exclude(one.number, one.excluded)
        return capture

    def _open_spill(self) -> None:
        if self._spill is not None or not self._settings.spill_bytes:
            return
        path = self._settings.spill(self._machine)
        try:
            spill = HrlFile(path, self._machine, self._settings.spill_bytes)
        except NoSpace as error:
            log.warning("There will be no .hrl file: %s", error)
            return
        numbered = protected_disks(self._numbers, self._settings.disks, None, ())
        if spill_is_safe(path, [one.disk for one in numbered]):
            self._spill = spill
        else:
            spill.close()
            path.unlink()

    def _stop_capture(self, why: str) -> None:
        if why:
            self.trouble = why
        capture, self._capture = self._capture, None
        if capture is not None:
            capture.close()
            self._next = Next()

    def _trouble(self, error: FarshoreError) -> None:
        if self.trouble != error.message:
            log.warning("No stream: %s", error)
        self.trouble = error.message

    def _pass_on(self, stop: threading.Event) -> None:
        """Interrupt the epoch when the service is to stop, or when the disks change."""
        seen = disks_seen()
        while not stop.wait(_LOOK_SECONDS):
            before, seen = seen, disks_seen()
            if seen != before and self.current is not None and self._disks_changed():
                log.info("The disks have changed.")
                self._interrupt.set()
        self.interrupt()

    def _disks_changed(self) -> bool:
        without: Sequence[int] = self._desired.exclude_disks if self._desired else ()
        spill = None if self._spill is None else self._spill.path
        found: List[ProtectedDisk] = []
        with contextlib.suppress(FarshoreError, OSError):  # a disk that is just going: the next look tells
            found = protected_disks(self._numbers, self._settings.disks, spill, without)
        return bool(found) and found != self.disks


def _wanted(desired: Desired) -> Tuple[bool, Tuple[int, ...]]:
    return desired.protect and not desired.standby, tuple(desired.exclude_disks)
