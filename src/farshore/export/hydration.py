"""Copies what overlays lack from their sources in the background, so that machines come to stand on local disk alone.

It yields: one MiB at a time, in disk order, within a rate, and a guest's own reads take turns with it. Starting anew
costs a scan of the maps: what is in an overlay is never fetched twice.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator, Mapping

from farshore.export.device import Device
from farshore.export.overlay import HYDRATE_BYTES, OverlayDevice
from farshore.model.errors import Damaged, FarshoreError

log = logging.getLogger(__name__)

_RETRY_SECONDS = 30.0
_DAMAGED_SECONDS = 600.0
"""Before what is damaged is tried again."""
_BREATH_SECONDS = 0.002


class Hydration:
    """Hydrates the overlays among ``devices``; ``rate`` in bytes a second, 0 for no limit."""

    def __init__(self, devices: Mapping[str, Device], rate: int) -> None:
        self._overlays = {name: device for name, device in devices.items() if isinstance(device, OverlayDevice)}
        self._rate = rate
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="hydrate", daemon=True)
        self.total = sum(overlay.size for overlay in self._overlays.values())
        self.done = 0
        """Bytes of ``total`` that need the source no more."""

    def start(self) -> None:
        """Begin; once is enough."""
        if self._thread.ident is None:
            self._thread.start()

    def stop(self) -> None:
        """End after the piece under way."""
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
        """Each piece once; answer those that are damaged. What is damaged may be put back, and is no reason to leave
        the rest where it can be lost too."""
        overlay, left = self._overlays[name], []
        for offset in offsets:
            if self._piece(name, overlay, offset):
                self.done += min(HYDRATE_BYTES, overlay.size - offset)
            elif self._stop.is_set():
                break
            else:
                left.append(offset)
        return left

    def _conclude(self, name: str) -> None:
        """Write down that a disk needs its source no more, as soon as there is room for that."""
        while not self._stop.is_set():
            try:
                if self._overlays[name].note_complete():
                    log.info("Disk %s stands on this host alone.", name)
                return
            except Damaged as error:
                log.error("Disk %s is hydrated, but that cannot be written down: %s", name, error)
                return
            except (FarshoreError, OSError) as error:
                log.warning("Disk %s is hydrated, but that is not written down yet: %s", name, error)
                self._stop.wait(_RETRY_SECONDS)

    def _piece(self, name: str, overlay: OverlayDevice, offset: int) -> bool:
        """One piece, repeated until it is there. False when told to stop, or if the source is damaged there."""
        while not self._stop.is_set():
            try:
                copied = overlay.hydrate(offset)
            except Damaged as error:
                log.error("Hydration of disk %s leaves out a MiB at byte %d: %s", name, offset, error)
                return False
            except (FarshoreError, OSError) as error:
                log.warning("Hydration of disk %s waits at byte %d: %s", name, offset, error)
                self._stop.wait(_RETRY_SECONDS)
                continue
            if copied:
                self._stop.wait(max(_BREATH_SECONDS, copied / self._rate if self._rate else 0.0))
            elif offset % (256 * HYDRATE_BYTES) == 0:
                time.sleep(0)
            return True
        return False
