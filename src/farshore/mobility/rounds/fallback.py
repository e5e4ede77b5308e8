"""Which capture mode this machine gets, and why not a better one."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Optional

from farshore.mobility.capture.probe import Ability, probe
from farshore.mobility.settings import Settings
from farshore.model.ports import Clock
from farshore.model.states import CaptureMode

log = logging.getLogger(__name__)

_ORDER = (CaptureMode.DATA, CaptureMode.BITMAP, CaptureMode.SCAN)


@dataclass(frozen=True)
class Fallback:
    """Rounds instead of a stream. ``since``: ns since 1970 UTC; ``every``: seconds between rounds."""

    mode: CaptureMode
    cause: str
    since: int
    every: float


def choose_fallback(settings: Settings, clock: Clock) -> Optional[Fallback]:
    """None: data mode. A mode that was asked for (``settings.capture``) is taken unless the machine cannot do it."""
    found = fallback_for(probe(), settings, clock)
    if found is not None:
        fields = {"mode": found.mode.value, "cause": found.cause}
        log.warning("This machine is protected in rounds, not by a stream.", extra={"fields": fields})
    return found


def fallback_for(ability: Ability, settings: Settings, clock: Clock) -> Optional[Fallback]:
    """The same, given what the machine can do."""
    mode, cause = ability.mode, " ".join(one.reason for one in ability.obstacles)
    if settings.capture is not None and _ORDER.index(settings.capture) > _ORDER.index(mode):
        mode, cause = settings.capture, "chosen by the agent's setting --capture"
    if mode is CaptureMode.DATA:
        return None
    every = settings.round_seconds if mode is CaptureMode.BITMAP else settings.scan_seconds
    return Fallback(mode, cause.rstrip("."), clock.now(), every)
