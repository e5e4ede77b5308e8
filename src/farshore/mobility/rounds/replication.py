"""Keep a machine without data mode protected: one epoch of rounds after another, each by hash.

Desired state and disk changes are handled as in replication.py.
"""

from __future__ import annotations

import logging
from typing import Callable, Optional

from farshore.api_types.machines import Desired, EpochGrant, EpochKind, EpochRequest
from farshore.client.data_plane import DataPlane
from farshore.client.machine_self import MachineSelf
from farshore.mobility.capture.capture import Capture
from farshore.mobility.control.description import describe
from farshore.mobility.rounds.bitmap_run import BitmapRun
from farshore.mobility.rounds.fallback import Fallback
from farshore.mobility.rounds.round_run import RoundRun
from farshore.mobility.rounds.scan_run import ScanRun
from farshore.mobility.settings import Settings
from farshore.mobility.stream.replication import Replication
from farshore.mobility.stream.running import EpochEnd, EpochParts, Limits
from farshore.model.identifiers import MachineId
from farshore.model.ports import Clock
from farshore.model.states import CaptureMode

log = logging.getLogger(__name__)


class RoundReplication(Replication):
    """A Replication whose epochs consist of rounds."""

    def __init__(
        self,
        machine: MachineId,
        run: str,
        settings: Settings,
        server: MachineSelf,
        planes: Callable[[EpochGrant], DataPlane],
        clock: Clock,
        limits: Limits,
        fallback: Fallback,
    ) -> None:
        super().__init__(machine, run, settings, server, planes, clock, limits)
        self.fallback = self._rounds = fallback

    def _epoch(self, desired: Desired) -> None:
        self._stop_capture("")
        self.disks, self._left_out = self._found(desired)
        if self._rounds.mode is CaptureMode.BITMAP:
            self._capture = self._new_capture()
        request = EpochRequest(run=self._run, kind=EpochKind.RESYNC, description=describe(self.disks, self._left_out))
        grant = self._server.open_epoch(request)
        plane = self._planes(grant)
        try:
            self.current = run = self._round_run(grant, self._capture, plane)
            self.trouble = ""
            ended = run.run(self._interrupt)
        finally:
            self.current = None
            plane.close()
        fields = {"at": ended.position, "why": ended.why.value, "cause": ended.cause}
        log.info("Epoch of rounds ended.", extra={"fields": fields})
        if ended.why in (EpochEnd.REFUSED, EpochEnd.FAILED):
            self.trouble = ended.cause
            self._interrupt.wait(self._backoff.pause())

    def _new_capture(self) -> Capture:
        """Create a new capture for each epoch: its base is everything, so nothing is taken over from the one before."""
        disks = {one.number: one.disk for one in self.disks}
        capture = Capture(disks, scratch=self._settings.state, bitmap_only=True)
        self.capture_started = self._clock.now()
        for one in self.disks:
            capture.exclude(one.number, one.excluded)
        return capture

    def _round_run(self, grant: EpochGrant, capture: Optional[Capture], plane: DataPlane) -> RoundRun:
        copied = [one.copied() for one in self.disks]
        devices = {one.number: one.disk.device for one in self.disks}
        parts = EpochParts(self._machine, grant, copied, plane, self._clock, self._limits, self.proving)
        every = self._rounds.every
        if capture is None:
            return ScanRun(parts, devices, every=every)
        return BitmapRun(parts, capture, frozenset(devices.values()), every=every)
