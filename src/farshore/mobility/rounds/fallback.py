"""Choose the capture mode of this machine, and say why it is not a better one."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Optional

from farshore.mobility.capture.capture import Capture
from farshore.mobility.capture.kernel import lists_page_layout
from farshore.mobility.capture.probe import Ability, Obstacle, probe
from farshore.mobility.copying.protected_disks import DiskNumbers, protected_disks
from farshore.mobility.settings import Settings
from farshore.model.errors import NotFound, TryLater
from farshore.model.ports import Clock
from farshore.model.states import CaptureMode

log = logging.getLogger(__name__)

UNKNOWN_LAYOUT = Obstacle(
    "The kernel does not list where its pages are in memory, and no ext4 or vfat file system shows it.",
    "Use a kernel that lists page_offset_base and vmemmap_base, or give the machine an ext4 file system, and restart "
    "the agent.",
)
_SMALL_RING = 1 << 16
_ORDER = (CaptureMode.DATA, CaptureMode.BITMAP, CaptureMode.SCAN)


@dataclass(frozen=True)
class Fallback:
    """Rounds instead of a stream. ``since``: ns since 1970 UTC; ``every``: seconds between rounds."""

    mode: CaptureMode
    cause: str
    since: int
    every: float


def choose_fallback(settings: Settings, clock: Clock) -> Optional[Fallback]:
    """Return the mode to use instead of data mode, or None for data mode. ``settings.capture`` decides, unless the
    machine does not support it."""
    ability = probe()
    if ability.mode is CaptureMode.DATA and settings.capture in (None, CaptureMode.DATA):
        ability = _with_page_layout(ability, settings)
    found = fallback_for(ability, settings, clock)
    if found is not None:
        fields = {"mode": found.mode.value, "cause": found.cause}
        log.warning("This machine is protected in rounds, not by a stream.", extra={"fields": fields})
    return found


def _with_page_layout(ability: Ability, settings: Settings) -> Ability:
    """Test whether the page layout can be learned, if the kernel does not list it."""
    if lists_page_layout():
        return ability
    try:
        disks = protected_disks(DiskNumbers(settings.disk_numbers), settings.disks, None, ())
    except NotFound:  # they do not exist yet, and are captured later as the kernel allows
        return ability
    try:
        with Capture({one.number: one.disk for one in disks}, ring_bytes=_SMALL_RING, scratch=settings.state) as trial:
            trial.learn_page_layout()
    except TryLater:
        return Ability(CaptureMode.BITMAP, (UNKNOWN_LAYOUT,))
    return ability


def fallback_for(ability: Ability, settings: Settings, clock: Clock) -> Optional[Fallback]:
    """Return the same for a known ability of the machine."""
    mode, cause = ability.mode, " ".join(one.reason for one in ability.obstacles)
    if settings.capture is not None and _ORDER.index(settings.capture) > _ORDER.index(mode):
        mode, cause = settings.capture, "chosen by the agent's setting --capture"
    if mode is CaptureMode.DATA:
        return None
    every = settings.round_seconds if mode is CaptureMode.BITMAP else settings.scan_seconds
    return Fallback(mode, cause.rstrip("."), clock.now(), every)
