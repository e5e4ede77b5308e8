"""Rounds of bitmap mode. In each round: read the changed blocks while the machine works, then those that changed
meanwhile, until few are left; freeze the file systems for a moment and read those few; thaw, then send them and the
point.

A round that cannot be finished loses nothing: its blocks are given back to the capture.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from pathlib import Path
from typing import FrozenSet, List, Mapping, Sequence, Tuple

from farshore.mobility.capture.accounting import State
from farshore.mobility.capture.bitmap import Ranges
from farshore.mobility.capture.capture import Capture, Dirty
from farshore.mobility.capture.disks import mounted_once
from farshore.mobility.copying.overlay_copy import dirty_pieces
from farshore.mobility.points.freezing import Freeze, order_of_freezing, write_out
from farshore.mobility.points.hooks import FOLDER
from farshore.mobility.retrying import Stopped, until_done
from farshore.mobility.rounds.round_run import RETRY_SECONDS, CopiedAgain, RoundRun
from farshore.mobility.rounds.still import Still, StillReading, TooMuch, size_of
from farshore.mobility.stream.pump import Milestone
from farshore.mobility.stream.running import Ended, EpochEnd, EpochParts
from farshore.model.errors import TryLater
from farshore.model.identifiers import DiskNumber
from farshore.model.point import PointKind

log = logging.getLogger(__name__)

STILL_BYTES = 64 << 20
"""Maximum that is read while the file systems are frozen; it is kept in memory until it is sent."""
STILL_SECONDS = 2.0
"""Maximum time of that reading, at the pace of the round so far."""
LIVE_PASSES = 10
_ACCOUNT_SECONDS = 1.0
_FIRST_PACE = 50e6
_TELLING_BYTES = 1 << 20
_LONGEST_STILL = 5.0
"""Reading is given up then: half of the time after which the guard thaws by itself."""
_FROZEN_KINDS = (PointKind.FILE_SYSTEM_CONSISTENT, PointKind.APP_CONSISTENT)


class BitmapRun(RoundRun):
    """``devices``: the disks as "major:minor". The capture is not closed here."""

    def __init__(
        self,
        parts: EpochParts,
        capture: Capture,
        devices: FrozenSet[str],
        *,
        every: float,
        hooks: Path = FOLDER,
    ) -> None:
        super().__init__(parts, every=every, hooks=hooks)
        self._capture = capture
        self._devices = devices
        self._pace = _FIRST_PACE

    def _run(self, stop: threading.Event) -> Ended:
        # all earlier writes have reached the disk: the copy reads them
        until_done(self._capture.collect, stop, "Capture")
        self._copy(self._plane, stop)
        while True:
            requests = self._requested()
            began = self._clock.monotonic()
            try:
                self._round(requests, stop)
                self._lasted = self._clock.monotonic() - began
                due = began + self._rest()
                if self._proves:
                    self._proof.begin(self._journal.acknowledged, due - self._clock.monotonic())
                    self._proof.read(_ACCOUNT_SECONDS, stop)
            except TryLater as error:
                self._no_point(requests, error)
                # Soon, if only too much was written. Not if the machine was frozen in vain.
                soon = self._clock.monotonic() + RETRY_SECONDS
                due = soon if isinstance(error, (TooMuch, CopiedAgain)) else max(soon, began + self._rest())
            while not self._wait(due, stop):
                self._proof.read(_ACCOUNT_SECONDS, stop)
                escaped = self._account()
                if escaped:
                    return self._end(EpochEnd.ESCAPED, escaped)
            if self._leaving:
                return self._end(EpochEnd.STOPPED, "The disks have changed.")

    def _wait(self, due: float, stop: threading.Event) -> bool:
        """Return whether it is time for another round, or to leave; wait for at most a second."""
        left = due - self._clock.monotonic()
        if left > 0 and not self._requests and not self._leaving:
            self._wake.wait(min(left, _ACCOUNT_SECONDS))
        self._wake.clear()
        if stop.is_set():
            raise Stopped
        return bool(self._requests) or self._leaving or self._clock.monotonic() >= due

    def _account(self) -> str:
        """Return the problem of the accounts, or ""."""
        self.verdicts = self._capture.account()
        gaps = [f"disk {number}: {one.gap} bytes" for number, one in self.verdicts.items() if one.state is State.GAP]
        return f"Writes escaped the capture ({'; '.join(gaps)})." if gaps else ""

    # ---- a round ----

    def _round(self, requests: List[Milestone], stop: threading.Event) -> None:
        """Do one round. Raises TryLater if no point could be made, Stopped, and what ends the epoch."""
        write_out(order_of_freezing(mounted_once(), self._devices))  # so that the freeze has little to write
        dirty = self._capture.collect()
        self._conclude(dirty)
        passes = 0
        while size_of(dirty) > min(STILL_BYTES // 2, self._pace * STILL_SECONDS):
            if passes == LIVE_PASSES:
                self._give_back([dirty])
                raise TooMuch(
                    "The machine writes faster than its changes can be copied, so this round made no recovery point.",
                    remedy="Raise its bandwidth limit, or use a kernel that supports data mode.",
                )
            self._copy_live(dirty, stop)
            dirty = self._capture.collect()
            passes += 1
        with contextlib.ExitStack() as quiet:
            try:
                quiet.enter_context(self._applications_quiet(requests))
            except BaseException:
                self._give_back([dirty])
                raise
            still, kind = self._read_still(dirty, requests)
        for piece in still.pieces:
            self._journal.send(piece, stop)
        self._put_points(requests, kind, still.time, stop)

    def _conclude(self, dirty: Mapping[DiskNumber, Ranges]) -> None:
        """Compare what was read after the last point, and not written since. Differences count as written."""
        try:
            differing = self._proof.conclude(dirty)
        except BaseException:
            self._give_back([dirty])
            raise
        if differing:
            self._give_back([differing])

    def _copy_live(self, dirty: Mapping[DiskNumber, Ranges], stop: threading.Event) -> None:
        reading = 0.0
        began = time.monotonic()
        for piece in dirty_pieces(self._disks, dirty, self._clock):
            reading += time.monotonic() - began
            self._journal.send(piece, stop)
            began = time.monotonic()
        self._note_pace(size_of(dirty), reading)

    def _note_pace(self, size: int, seconds: float) -> None:
        if size >= _TELLING_BYTES:
            self._pace = size / max(seconds, 1e-3)

    def _read_still(self, dirty: Mapping[DiskNumber, Ranges], requests: Sequence[Milestone]) -> Tuple[Still, PointKind]:
        """Read the last blocks with everything frozen, or, if that fails, at a moment without writes."""
        reading = StillReading(self._capture, self._disks, self._clock, STILL_BYTES)
        try:
            with Freeze(order_of_freezing(mounted_once(), self._devices)) as freeze:
                began = time.monotonic()
                try:
                    still = reading.read(dirty, lambda: freeze.holds() and time.monotonic() < began + _LONGEST_STILL)
                    freeze.thaw()
                finally:
                    self._note_pace(reading.bytes, time.monotonic() - began)
            return still, PointKind.FILE_SYSTEM_CONSISTENT
        except TooMuch:
            self._give_back(reading.noted)
            raise
        except TryLater as error:
            self._give_back(reading.noted or [dirty])
            if any(one.point is not None and one.point.kind in _FROZEN_KINDS for one in requests):
                raise
            log.warning("A round continues without a freeze: %s", error)
        except BaseException:
            self._give_back(reading.noted or [dirty])
            raise
        reading = StillReading(self._capture, self._disks, self._clock, STILL_BYTES)
        try:
            return reading.read({}, lambda: True), PointKind.CRASH_CONSISTENT
        except BaseException:
            self._give_back(reading.noted)
            raise

    def _give_back(self, noted: Sequence[Mapping[DiskNumber, Ranges]]) -> None:
        for blocks in noted:
            self._capture.give_back(Dirty(0, blocks))
