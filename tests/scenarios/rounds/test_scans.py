"""Scan mode on a whole installation: each point is called what it is, and none is called more."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.crash.mobility.rig import Rig, churn, same
from tests.loopdisks import loop_disk, require_root
from tests.scenarios.rounds.ledger import Writer, reached
from tests.scenarios.rounds.recovered import recovered_file, until_thawed
from tests.waiting import until

from farshore.model.identifiers import DiskNumber
from farshore.model.point import PointKind

pytestmark = pytest.mark.root
MIB = 1 << 20
FILES, RAW = DiskNumber(0), DiskNumber(1)


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    """A disk with a file system, and one without."""
    require_root()
    home: Path = tmp_path_factory.mktemp("installation")
    with loop_disk(128 * MIB, "ext4") as disk, loop_disk(16 * MIB) as raw:
        made = Rig(home, disk, raw.device)
        made._options += ["--capture", "scan", "--scan-seconds", "1"]
        try:
            made.up()
            made.enrol()
            churn(disk.folder, 24, "before")
            made.start_agent()
            made.wait_consistent()
            yield made
        finally:
            made.close()
            until_thawed(disk.folder)


def kinds(rig: Rig, after: int) -> list[PointKind]:
    return [point.kind for point in rig.vault().points.listed(after=after)]


def test_the_mode_and_its_rpo_are_told(rig: Rig) -> None:
    shown = rig.shown()
    assert shown.mode is not None
    assert (shown.mode.value, shown.mode_cause) == ("scan", "chosen by the agent's setting --capture")
    assert 1 <= shown.points_every < 60


def test_what_a_scan_finds_is_sent_and_equal(rig: Rig) -> None:
    churn(rig.disk.folder, 8, "found")
    (rig.disk.folder / "before").unlink()
    position, disk = rig.frozen_point("equal")  # frozen by the test: nothing is written, so the kernel's counts tell
    same(rig.replica(position), disk)
    found = next(point for point in rig.vault().points.listed() if point.name == "equal")
    assert found.kind is PointKind.CRASH_CONSISTENT


def test_small_disks_are_scanned_once_more_under_a_freeze(rig: Rig) -> None:
    ledger = rig.disk.folder / "ledger"
    began = time.time_ns()
    with Writer([ledger], pause=0.01):
        until(lambda: PointKind.FILE_SYSTEM_CONSISTENT in kinds(rig, began), "a frozen scan")
        position = rig.point("clean", PointKind.FILE_SYSTEM_CONSISTENT)
    assert reached([recovered_file(rig.home, rig.replica(position), "ledger")]) > 0


def test_a_disk_that_nobody_can_freeze_makes_scanned_points(rig: Rig) -> None:
    began = time.time_ns()
    raw = Path(rig._options[rig._options.index("--disk") + 3])
    with Writer([raw]):
        until(lambda: PointKind.SCANNED in kinds(rig, began), "a point that is only scanned")
    shown = rig.shown()
    assert shown.rpo_seconds is not None
