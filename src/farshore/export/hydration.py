"""Copy what overlays lack from their sources in the background, so that machines come to depend only on local disks.

A few MiB at a time, begun in disk order, within a rate; memory does not grow with the disk. It yields: while a guest
uses its disk, one MiB at a time is copied, with a pause after each. A restart costs a scan of the maps: what is in an
overlay is never fetched twice.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice

from farshore.export.device import Device
from farshore.export.overlay import HYDRATE_BYTES, OverlayDevice
from farshore.model.errors import Damaged, FarshoreError

log = logging.getLogger(__name__)

_RETRY_SECONDS = 30.0
_DAMAGED_SECONDS = 600.0
"""Before damaged pieces are retried."""
_BREATH_SECONDS = 0.002
_WORKERS = 3
_AHEAD = 2 * _WORKERS
"""Pieces that are begun before the first of them is waited for."""
_QUIET_SECONDS = 0.1
"""A guest without requests for this long does not need its disk."""


class Hydration:
    """Hydrates the overlays among ``devices``; ``rate`` in bytes a second, 0 for no limit."""

    def __init__(self, devices: Mapping[str, Device], rate: int) -> None:
        self._overlays = {name: device for name, device in devices.items() if isinstance(device, OverlayDevice)}
        self._rate = rate
        self._stop = threading.Event()
        self._asked = {name: one.asked for name, one in self._overlays.items()}
        self._busy_until = 0.0
        self._thread = threading.Thread(target=self._run, name="hydrate", daemon=True)
        self.total = sum(overlay.size for overlay in self._overlays.values())
        self.done = 0
        """Bytes of ``total`` that no longer need the source."""

    def start(self) -> None:
        """Start the background thread. Further calls have no effect."""
        if self._thread.ident is None:
            self._thread.start()

    def stop(self) -> None:
        """End after the piece in progress."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        waiting = {name: iter(range(0, one.size, HYDRATE_BYTES)) for name, one in self._overlays.items()}
        while waiting:
            damaged: dict[str, Iterator[int]] = {}
            for name, offsets in waiting.items():
                left = self._round(name, offsets)
                if self._stop.is_set():
                    return
                if left:
                    damaged[name] = iter(left)
                else:
                    self._conclude(name)
            waiting = damaged
            if waiting:
                self._stop.wait(_DAMAGED_SECONDS)

    def _round(self, name: str, offsets: Iterator[int]) -> list[int]:
        """Copy each piece once; return damaged ones. Damage may be repaired later, and is no reason to leave the rest
        where it can be lost too."""
        overlay, left = self._overlays[name], []
        pool, begun = ThreadPoolExecutor(_WORKERS, thread_name_prefix="hydrate"), deque[tuple[int, Future[int]]]()
        try:
            while not self._stop.is_set():
                ahead = 1 if self._guest_asks() else _AHEAD
                begun += (
                    (one, pool.submit(overlay.hydrate, one)) for one in islice(offsets, max(0, ahead - len(begun)))
                )
                if not begun:
                    break
                offset, piece = begun.popleft()
                if self._copied(piece, offset) or self._piece(name, overlay, offset):
                    self.done += min(HYDRATE_BYTES, overlay.size - offset)
                elif not self._stop.is_set():
                    left.append(offset)
        finally:
            pool.shutdown(cancel_futures=True)
        return left

    def _copied(self, piece: Future[int], offset: int) -> bool:
        """Return whether a piece that was begun has been copied. A failed one is retried alone: an obstacle of one
        piece, above all an unreachable store, affects all that were begun, and is waited for once."""
        try:
            self._rest(piece.result(), offset)
        except (FarshoreError, OSError):
            return False
        return True

    def _guest_asks(self) -> bool:
        """Return whether a guest uses its disks, so that copying must leave it time between two pieces."""
        now = time.monotonic()
        asked = {name: one.asked for name, one in self._overlays.items()}
        if asked != self._asked:
            self._asked, self._busy_until = asked, now + _QUIET_SECONDS
        return now < self._busy_until

    def _conclude(self, name: str) -> None:
        """Record that a disk no longer needs its source, as soon as there is space for that record."""
        while not self._stop.is_set():
            try:
                if self._overlays[name].note_complete():
                    log.info("Disk %s depends only on this host now.", name)
                return
            except Damaged as error:
                log.error("Disk %s is hydrated, but this cannot be recorded: %s", name, error)
                return
            except (FarshoreError, OSError) as error:
                log.warning("Disk %s is hydrated, but that is not written down yet: %s", name, error)
                self._stop.wait(_RETRY_SECONDS)

    def _piece(self, name: str, overlay: OverlayDevice, offset: int) -> bool:
        """Copy one piece, repeated until it succeeds. Return False when stopped, or if the source is damaged there."""
        while not self._stop.is_set():
            try:
                copied = overlay.hydrate(offset)
            except Damaged as error:
                log.error("Hydration of disk %s skips a MiB at byte %d: %s", name, offset, error)
                return False
            except (FarshoreError, OSError) as error:
                log.warning("Hydration of disk %s waits at byte %d: %s", name, offset, error)
                self._stop.wait(_RETRY_SECONDS)
                continue
            self._rest(copied, offset)
            return True
        return False

    def _rest(self, copied: int, offset: int) -> None:
        """Rest after a piece: for its share of the rate, and so that a guest gets its turn."""
        pause = copied / self._rate if self._rate else 0.0
        if copied and self._guest_asks():
            pause = max(pause, _BREATH_SECONDS)
        if pause:
            self._stop.wait(pause)
        elif offset % (256 * HYDRATE_BYTES) == 0:
            time.sleep(0)
