"""Copies what overlays lack from their sources in the background, so that machines come to stand on local disk alone.

It yields: one MiB at a time, in disk order, within a rate, and a guest's own reads take turns with it. Starting anew
costs a scan of the maps: what is in an overlay is never fetched twice.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping

from farshore.export.device import Device
from farshore.export.overlay import HYDRATE_BYTES, OverlayDevice
from farshore.model.errors import Damaged, FarshoreError

log = logging.getLogger(__name__)

_RETRY_SECONDS = 30.0
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
        for name, overlay in self._overlays.items():
            for offset in range(0, overlay.size, HYDRATE_BYTES):
                if not self._piece(name, overlay, offset):
                    return
                self.done += min(HYDRATE_BYTES, overlay.size - offset)
            self._conclude(name, overlay)

    def _conclude(self, name: str, overlay: OverlayDevice) -> None:
        try:
            if overlay.note_complete():
                log.info("Disk %s stands on this host alone.", name)
        except (FarshoreError, OSError) as error:
            log.error("Disk %s is hydrated, but that could not be written down: %s", name, error)

    def _piece(self, name: str, overlay: OverlayDevice, offset: int) -> bool:
        """One piece, repeated until it is there. False when told to stop, or where the source is damaged."""
        while not self._stop.is_set():
            try:
                copied = overlay.hydrate(offset)
            except Damaged as error:
                log.error("Hydration of disk %s ends at byte %d: %s", name, offset, error)
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
