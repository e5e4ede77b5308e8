"""Freezing real file systems: nothing moves inside, and nothing stays frozen, whoever dies."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.loopdisks import LoopDisk, loop_disk, require_root

from farshore.formats.point_payload import PointPayload
from farshore.mobility.copying.protected_disks import ProtectedDisk
from farshore.mobility.points.freezing import Freeze
from farshore.mobility.points.points import take_point
from farshore.mobility.stream.pump import Milestone
from farshore.model.errors import TryLater
from farshore.model.identifiers import DiskNumber, PointId
from farshore.model.point import PointKind

pytestmark = pytest.mark.root
HOLD_FOR_EVER = """
import sys, time
from farshore.mobility.points.freezing import Freeze
with Freeze(sys.argv[1:], seconds=60):
    print("frozen", flush=True)
    time.sleep(600)
"""


@pytest.fixture(scope="module")
def disk() -> Iterator[LoopDisk]:
    require_root()
    with loop_disk(64 << 20, "ext4") as made:
        yield made


class Writer:
    """Writes and synchronises one file in the background."""

    def __init__(self, folder: Path) -> None:
        self.done = threading.Event()
        self.at = 0.0
        self._path = folder / f"file-{time.monotonic_ns()}"
        self._thread = threading.Thread(target=self._write)
        self._thread.start()

    def _write(self) -> None:
        self._path.write_bytes(b"x")
        subprocess.run(["sync", self._path], check=True)
        self.at = time.monotonic()
        self.done.set()

    def finish(self) -> bool:
        self._thread.join(30)
        return self.done.is_set()


def test_a_writer_waits_until_the_thaw(disk: LoopDisk) -> None:
    with Freeze([str(disk.folder)]) as freeze:
        writer = Writer(disk.folder)
        assert not writer.done.wait(0.5)
        assert freeze.holds()
        freeze.thaw()
        assert writer.finish()


def test_leaving_without_a_thaw_thaws(disk: LoopDisk) -> None:
    with Freeze([str(disk.folder)]):
        writer = Writer(disk.folder)
    assert writer.finish()


def test_the_guard_thaws_when_its_time_is_up(disk: LoopDisk) -> None:
    with Freeze([str(disk.folder)], seconds=3.0) as freeze:
        assert Writer(disk.folder).finish()
        assert not freeze.holds()
        with pytest.raises(TryLater, match="late"):
            freeze.thaw()


def test_an_agent_killed_while_it_holds_leaves_nothing_frozen(disk: LoopDisk) -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLD_FOR_EVER, str(disk.folder)], stdout=subprocess.PIPE)
    assert holder.stdout is not None
    with holder.stdout:
        assert holder.stdout.readline() == b"frozen\n"
        writer = Writer(disk.folder)
        assert not writer.done.wait(0.3)
        holder.kill()
        holder.wait(60)
    assert writer.finish()


def test_one_that_is_frozen_already_is_told_and_the_others_are_thawed(disk: LoopDisk) -> None:
    with loop_disk(64 << 20, "ext4") as other, disk.frozen():
        with pytest.raises(TryLater, match=str(disk.folder)), Freeze([str(other.folder), str(disk.folder)]):
            pass
        assert Writer(other.folder).finish()


class Stream:
    """Cuts at once; begins to write right after it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.writers: list[Writer] = []

    def cut(self, point: PointPayload, still: Callable[[], bool]) -> Milestone:
        assert still()
        self.writers.append(Writer(self.folder))
        milestone = Milestone(1, point)
        milestone._reached.set()
        return milestone


def test_a_machine_that_is_held_stays_frozen_after_its_point(disk: LoopDisk, tmp_path: Path) -> None:
    """And goes on by itself when the time is up: whoever was to stop it did not."""
    stream, hold = Stream(disk.folder), 2.0
    point = PointPayload(PointId("11111111-1111-4111-8111-111111111111"), PointKind.APP_CONSISTENT, "")
    begun = time.monotonic()
    take_point(point, stream, [ProtectedDisk(DiskNumber(0), disk.disk, ())], hooks=tmp_path, hold=hold)
    assert time.monotonic() - begun >= hold
    (writer,) = stream.writers
    assert writer.finish()
    assert writer.at - begun >= hold, "nothing was written before"
