"""Which mode a machine gets: the best that it can do, or the lesser one that was asked for."""

from __future__ import annotations

from pathlib import Path
from typing import List, Optional

import pytest
from tests.unit.mobility.doubles import FakeClock

from farshore.mobility.capture import kernel
from farshore.mobility.capture.probe import Ability, Obstacle
from farshore.mobility.rounds import fallback
from farshore.mobility.rounds.fallback import fallback_for
from farshore.mobility.settings import Settings
from farshore.model.errors import TryLater
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


class Trial:
    """A capture that cannot learn where pages lie; ``made``: with which disks."""

    made: List[object]

    def __init__(self, disks: object, **_: object) -> None:
        Trial.made = [disks]

    def __enter__(self) -> Trial:
        return self

    def __exit__(self, *_: object) -> None:
        return

    def learn_page_layout(self) -> None:
        raise TryLater("Not known yet.", remedy="")


def test_pages_that_cannot_be_found_leave_the_bitmap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fallback, "probe", lambda: Ability(DATA))
    monkeypatch.setattr(fallback, "Capture", Trial)
    monkeypatch.setattr(fallback, "protected_disks", lambda *_: [])
    symbols = tmp_path / "kallsyms"
    monkeypatch.setattr(kernel, "KALLSYMS", symbols)
    settings = Settings(state=tmp_path)
    symbols.write_text("ffffffff81000000 T _text\nffffffff82000000 D page_offset_base\n")
    found = fallback.choose_fallback(settings, FakeClock())
    assert found is not None
    assert found.mode is BITMAP
    assert "pages are in memory" in found.cause
    Trial.made = []
    symbols.write_text("0000000000000000 D page_offset_base\n0000000000000000 D vmemmap_base\t[x]\n")
    assert fallback.choose_fallback(settings, FakeClock()) is None
    assert not Trial.made, "what the kernel lists needs no trial"
