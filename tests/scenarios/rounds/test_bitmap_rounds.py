"""Bitmap mode with a freeze, on a whole installation: every point is a moment that was, however busy the machine is."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.crash.mobility.rig import Rig, churn, same, writing
from tests.loopdisks import LoopDisk, loop_disk, require_root
from tests.scenarios.rounds.ledger import SLOT, SLOTS, Writer, reached
from tests.scenarios.rounds.recovered import guards, recovered_file, until_thawed
from tests.waiting import until

from farshore.api_types.machines import CheckSeverity, Finding, Machine, ProtectionRequest
from farshore.model.identifiers import DiskNumber
from farshore.model.point import PointKind
from farshore.model.position import Position

pytestmark = pytest.mark.root
MIB = 1 << 20
EVERY = 1.0


class Protected:
    """Three disks: two with file systems, one without; an agent that may not use data mode."""

    def __init__(self, home: Path, first: LoopDisk, second: LoopDisk, raw: LoopDisk) -> None:
        self.first, self.second, self.raw = first, second, raw
        self.home = home
        self.rig = Rig(home, first, second.device, raw.device)
        self.rig._options += ["--capture", "bitmap", "--round-seconds", str(EVERY)]
        self.numbers = dict(zip((first, second, raw), map(DiskNumber, range(3)), strict=True))

    def points(self, after: int = 0) -> list[tuple[Position, str]]:
        """Position and kind of the points in the vault that are younger than ``after`` (ns)."""
        return [(point.position, point.kind.value) for point in self.rig.vault().points.listed(after=after)]

    def listed(self) -> list[str]:
        """The positions that ``farshore point list`` shows."""
        with contextlib.closing(self.rig.api()) as api:
            return [f"{point.epoch}:{point.sequence}" for point in api.points(self.rig.machine)]

    def unhindered(self) -> None:
        """Let the agent take the processor time that it needs: on two busy processors a tenth may be too little."""
        with contextlib.closing(self.rig.api()) as api:
            path = f"/v1/machines/{self.rig.machine}/protection"
            api.transport.put(path, ProtectionRequest(cpu_percent=100), Machine)

    def findings(self) -> dict[str, Finding]:
        """As ``farshore machine check`` shows them."""
        with contextlib.closing(self.rig.api()) as api:
            found = api.transport.get_list(f"/v1/machines/{self.rig.machine}/check", Finding)
        return {one.subject: one for one in found}

    def check(self, name: str) -> None:
        """A point while nothing moves equals all disks."""
        with self.first.frozen(), self.second.frozen():
            position = self.rig.point(name)
            disks = {number: disk.read() for disk, number in self.numbers.items()}
        for number, contents in disks.items():
            same(self.rig.replica(position, number), contents)

    def file(self, position: Position, disk: LoopDisk, name: str) -> bytes:
        """A file as it was, read by mounting the recovered file system."""
        return recovered_file(self.home, self.rig.replica(position, self.numbers[disk]), name)


@pytest.fixture(scope="module")
def protected(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Protected]:
    require_root()
    home: Path = tmp_path_factory.mktemp("installation")
    with loop_disk(160 * MIB, "ext4") as first, loop_disk(400 * MIB, "xfs") as second, loop_disk(32 * MIB) as raw:
        made = Protected(home, first, second, raw)
        try:
            made.rig.up()
            made.rig.enrol()
            churn(first.folder, 24, "before")
            made.unhindered()
            made.rig.start_agent()
            made.rig.wait_consistent()
            yield made
        finally:
            made.rig.close()
            until_thawed(first.folder)


def test_the_mode_and_its_rpo_are_told(protected: Protected) -> None:
    shown = protected.rig.shown()
    assert shown.mode is not None
    assert (shown.mode.value, shown.mode_cause) == ("bitmap", "chosen by the agent's setting --capture")
    assert shown.mode_since > 0
    assert EVERY <= shown.points_every < 60
    until(lambda: "capture mode" in protected.findings(), "what the agent found when it looked around")
    found = protected.findings()["capture mode"]
    assert (found.severity, "was requested" in found.message) == (CheckSeverity.WARNING, True)
    assert protected.findings()["privileges"].severity is CheckSeverity.OK
    until(lambda: len(protected.points()) >= 3, "points without having been asked for")
    assert {kind for _, kind in protected.points()} == {PointKind.FILE_SYSTEM_CONSISTENT.value}
    until(lambda: len(protected.listed()) >= 3, "the same in the catalog")
    assert set(protected.listed()) <= {str(position) for position, _ in protected.points()}
    assert 0 <= protected.rig.shown().rpo_seconds < 60


def test_every_point_is_a_moment_over_all_file_systems(protected: Protected) -> None:
    """One writer goes to and fro between two file systems, while others keep both busy."""
    began = time.time_ns()
    ledgers = [protected.first.folder / "ledger", protected.second.folder / "ledger"]
    with (
        Writer(ledgers),
        # A round that is slower than the writers makes the next one longer, so they are slow: machines here differ.
        writing(protected.first.folder, megabytes_a_second=0.5),
        writing(protected.second.folder, megabytes_a_second=0.5),
    ):
        until(lambda: len(protected.points(began)) >= 4, "points under load")
    stood = []
    for position, kind in protected.points(began)[1:4]:
        assert kind == PointKind.FILE_SYSTEM_CONSISTENT.value
        contents = [protected.file(position, disk, "ledger") for disk in (protected.first, protected.second)]
        stood.append(reached(contents))
    assert stood == sorted(stood)
    assert stood[-1] > stood[0]


def test_a_disk_without_file_system_is_caught_between_two_writes(protected: Protected) -> None:
    """Nothing can be frozen there. The writer rests now and then; while it does not, there is no point at all."""
    began = time.time_ns()
    with Writer([protected.raw.device], pause=1.5):
        until(lambda: len(protected.points(began)) >= 3, "points beside a slow raw writer")
    for position, _ in protected.points(began)[1:3]:
        image = protected.rig.replica(position, protected.numbers[protected.raw])
        reached([image[: SLOTS * SLOT].tobytes()])
    with Writer([protected.raw.device]):
        until(lambda: any("outside of the frozen" in text for text in protected.rig.shown().warnings), "the reason")
    newest = time.time_ns()
    until(lambda: len(protected.points(newest)) >= 1, "points again")


def test_the_replica_is_the_disk_byte_for_byte(protected: Protected) -> None:
    """The test holds the file system frozen, so the agent cannot, and makes its point without."""
    protected.check("equal")


def test_killed_in_a_round_nothing_stays_frozen_and_the_copy_begins_again(protected: Protected) -> None:
    rig = protected.rig
    epoch = rig.shown().epoch
    with writing(protected.first.folder, megabytes_a_second=4):
        until(lambda: any(str(protected.second.folder) in line for line in guards()), "a freeze", pause=0)
        rig.signal_agent(signal.SIGKILL)
        churn(protected.first.folder, 2, "unseen")
        churn(protected.second.folder, 2, "unseen")
        rig.start_agent()
        rig.wait_consistent(after_epoch=epoch)
    protected.check("after-kill")
