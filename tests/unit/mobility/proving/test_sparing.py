"""What the kernel counts of the processors tells whether proofs may read."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.unit.mobility.doubles import FakeClock

from farshore.mobility.proving.sparing import LOOK_SECONDS, Sparing
from farshore.mobility.stream import throttle


def test_who_leaves_nothing_idle_starves_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, stat = FakeClock(), tmp_path / "stat"
    monkeypatch.setattr(throttle, "_STAT", stat)
    monkeypatch.setattr(throttle.time, "process_time", lambda: 0.0)
    sparing, found, idle, busy = Sparing(clock), [], 0, 0
    for share in (100, 100, 20, 5, 0, 50):
        idle, busy = idle + 10 * share, busy + 10 * (100 - share)
        stat.write_text(f"cpu {busy} 0 0 {idle} 0 0 0 0 0 0\n")
        found.append(sparing.starved())
        clock.move(LOOK_SECONDS)
    assert found == [False, False, False, True, True, False], "a tenth of the machine is not touched"
    stat.write_text(f"cpu {busy + 500} 0 0 {idle} 0 0 0 0 0 0\n")
    assert sparing.starved()
    stat.write_text(f"cpu {busy + 500} 0 0 {idle + 9000} 0 0 0 0 0 0\n")
    assert sparing.starved(), "it has just looked"
