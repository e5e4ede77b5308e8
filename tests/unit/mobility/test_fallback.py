"""Which mode a machine gets: the best that it can do, or the lesser one that was asked for."""

from __future__ import annotations

from typing import Optional

import pytest
from tests.unit.mobility.doubles import FakeClock

from farshore.mobility.capture.probe import Ability, Obstacle
from farshore.mobility.rounds.fallback import fallback_for
from farshore.mobility.settings import Settings
from farshore.model.states import CaptureMode

DATA, BITMAP, SCAN = CaptureMode.DATA, CaptureMode.BITMAP, CaptureMode.SCAN
OLD = Obstacle("Kernel 5.14 lacks bpf_loop.", "Upgrade.")


@pytest.mark.parametrize(
    ("able", "asked", "given"),
    [
        (DATA, None, None),
        (DATA, DATA, None),
        (DATA, BITMAP, BITMAP),
        (DATA, SCAN, SCAN),
        (BITMAP, None, BITMAP),
        (BITMAP, DATA, BITMAP),
        (BITMAP, SCAN, SCAN),
        (SCAN, BITMAP, SCAN),
    ],
)
def test_no_better_than_possible_and_no_better_than_asked_for(
    able: CaptureMode, asked: Optional[CaptureMode], given: Optional[CaptureMode]
) -> None:
    ability = Ability(able, () if able is DATA else (OLD,))
    settings = Settings(capture=asked, round_seconds=60, scan_seconds=3600)
    found = fallback_for(ability, settings, FakeClock())
    if given is None:
        assert found is None
        return
    assert found is not None
    assert found.mode is given
    assert found.every == (60 if given is BITMAP else 3600)
    assert found.cause == ("Kernel 5.14 lacks bpf_loop" if given is able else "chosen by the agent's setting --capture")
    assert found.since == FakeClock().now()
