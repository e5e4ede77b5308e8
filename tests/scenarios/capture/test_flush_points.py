"""At every flush marker the replica, its journal replayed, is a sound file system that holds what was acknowledged.

The position of the ring is noted when a commit begins and when its sync has returned. At a marker the replayed image
must hold at least the commits that were acknowledged before it, and none that had not begun.
"""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from tests.loopdisks import SCRATCH, attached, loop_disk, require_data_mode, run, unmount
from tests.scenarios.capture.replica import apply, capturing, differing_blocks

from farshore.formats.record import RecordKind
from farshore.mobility.capture.layout import RING_RECORD

pytestmark = pytest.mark.root

MIB = 1 << 20
SIZES = {"ext4": 48 * MIB, "xfs": 320 * MIB, "btrfs": 128 * MIB}
COMMITS = {"ext4": 8, "xfs": 4, "btrfs": 8}
FIO_ROUNDS = {"ext4": 2, "xfs": 2, "btrfs": 2}
FIO_BYTES = 128 << 10
MKFS_OPTIONS = {"ext4": "-b 4096", "xfs": "", "btrfs": "-m single --mixed"}
Position = Callable[[], int]


@pytest.fixture(autouse=True)
def _root():
    require_data_mode()


@pytest.fixture
def scratch():
    folder = SCRATCH / "flush-points"
    folder.mkdir(parents=True)
    yield folder
    shutil.rmtree(folder)


@dataclass(frozen=True)
class Commit:
    """All of its writes lie between these two positions of the ring. ``digest`` is of the file that it wrote."""

    begun: int
    acknowledged: int
    digest: str = ""


@dataclass(frozen=True)
class Recording:
    """What was captured of some commits, from ring position ``start`` on, and the disk before and after."""

    fstype: str
    before: npt.NDArray[np.uint8]
    records: npt.NDArray[np.void]
    start: int
    commits: list[Commit]
    after: npt.NDArray[np.uint8]

    def markers(self) -> list[int]:
        """Where in ``records`` the flushes are."""
        return np.flatnonzero(self.records["kind"] == RecordKind.FLUSH).tolist()

    def bounds(self, marker: int) -> tuple[int, int]:
        """How many commits an image of the records before ``marker`` must hold at least, and may hold at most."""
        at = self.start + marker * RING_RECORD.itemsize
        return sum(one.acknowledged <= at for one in self.commits), sum(one.begun < at for one in self.commits)


@dataclass(frozen=True)
class Work:
    """``commits`` are made one after another in a folder; ``held`` says how many a recovered folder holds, in order."""

    commits: Callable[[Path, str, Position], Iterator[Commit]]
    held: Callable[[Path, list[Commit]], int]


def record(fstype: str, work: Work) -> Recording:
    with (
        loop_disk(SIZES[fstype], fstype, mkfs_options=MKFS_OPTIONS[fstype]) as disk,
        capturing({0: disk}) as (capture, recorder),
    ):
        capture.begin_data_mode()
        with disk.frozen():
            before = disk.read()
            start = capture.position()
        commits = list(work.commits(disk.folder, fstype, capture.position))
        with disk.frozen():
            end = capture.position()
            after = disk.read()
        return Recording(fstype, before, recorder.records(start, end), start, commits, after)


def replay(recording: Recording, work: Work, scratch: Path, *, drop: slice = slice(0, 0)) -> dict[int, str]:
    """Complaints by marker, of the images at every flush; ``drop``: leave these of the writes out.

    Only when the original is gone: two btrfs with one identity must not meet.
    """
    records = recording.records
    image, copy = scratch / "replica.img", scratch / "copy.img"
    recording.before.tofile(image)
    kept = np.ones(len(records), np.bool_)
    kept[np.flatnonzero(records["kind"] == RecordKind.WRITE)[drop]] = False
    complaints: dict[int, str] = {}
    view, at = np.memmap(image, np.uint8, "r+"), 0
    for marker in [*recording.markers(), len(records)]:
        apply(view, records[at:marker][kept[at:marker]])
        view.flush()
        at = marker
        run(f"cp --reflink=auto --sparse=always {image} {copy}")
        least, most = recording.bounds(marker)
        try:
            held = CHECKS[recording.fstype](
                copy, scratch / "mount", lambda folder: work.held(folder, recording.commits)
            )
            assert least <= held <= most, f"{held} commits, of {least} acknowledged and {most} begun"
        except (AssertionError, OSError) as error:
            complaints[marker] = str(error)
    if differing_blocks(np.asarray(view), recording.after):
        complaints[-1] = "the last image is not the disk"
    return complaints


@pytest.mark.parametrize("fstype", ["ext4", "xfs", "btrfs"])
@pytest.mark.parametrize("name", ["numbers", "fio"])
def test_every_flush_is_a_sound_file_system_with_all_that_was_acknowledged(fstype, name, scratch):
    work = WORKS[name]
    recording = record(fstype, work)
    asked = [recording.bounds(marker)[0] for marker in recording.markers()]
    assert len(set(asked)) >= len(recording.commits), "too few markers lie between acknowledgements"
    assert replay(recording, work, scratch) == {}


def test_one_write_in_seven_dropped_is_complained_of(scratch):
    """A checker that cannot fail is no checker. Not only the last image has to be found wanting."""
    recording = record("ext4", WORKS["fio"])
    complaints = replay(recording, WORKS["fio"], scratch, drop=slice(None, None, 7))
    asking = {marker for marker in recording.markers() if recording.bounds(marker)[0]}
    assert asking
    assert asking <= set(complaints), complaints


def commit_numbers(folder: Path, fstype: str, position: Position) -> Iterator[Commit]:
    """Numbers, each in a file of its own, renamed and synced, amid other changes."""
    for n in range(1, COMMITS[fstype] + 1):
        begun = position()
        (folder / "new").write_text(f"{n}\n" * 3000)
        subprocess.run(["sync", folder / "new"], check=True)
        (folder / "new").rename(folder / "number")
        for i in range(12):
            (folder / f"other-{i}").write_bytes(bytes([n]) * 2000 * i)
        (folder / f"other-{n % 12}").unlink()
        subprocess.run(["sync", "-f", folder], check=True)
        yield Commit(begun, position())


def number_in(folder: Path, _commits: list[Commit]) -> int:
    """The number that a recovered file system holds; its file must be whole."""
    with contextlib.suppress(FileNotFoundError):
        lines = (folder / "number").read_text().splitlines()
        assert len(lines) == 3000
        assert len(set(lines)) == 1
        return int(lines[0])
    return 0


def fio_rounds(folder: Path, fstype: str, position: Position) -> Iterator[Commit]:
    """fio writes a file of its own in each round, at random and with syncs between; its last one acknowledges it."""
    for n in range(1, FIO_ROUNDS[fstype] + 1):
        begun = position()
        sync = "--fsync=16" if n % 2 else "--fdatasync=16"
        run(
            f"fio --output=/dev/null --name=round --filename={folder}/fio-{n} --size={FIO_BYTES} --rw=randwrite --bs=4k"
            f" --ioengine=psync --fallocate=none --refill_buffers --randseed={n} {sync} --end_fsync=1"
        )
        acknowledged = position()
        yield Commit(begun, acknowledged, digest(folder / f"fio-{n}"))


def whole_files(folder: Path, commits: list[Commit]) -> int:
    """Of how many rounds, from the first, all bytes are there."""
    count = 0
    for n, commit in enumerate(commits, 1):
        if not (folder / f"fio-{n}").exists() or digest(folder / f"fio-{n}") != commit.digest:
            break
        count = n
    return count


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


WORKS = {"numbers": Work(commit_numbers, number_in), "fio": Work(fio_rounds, whole_files)}


def recovered(copy: Path, folder: Path, fstype: str, held: Callable[[Path], int]) -> int:
    """Mount, which replays the journal, look, unmount."""
    folder.mkdir(exist_ok=True)
    with attached(copy, folder) as disk:
        run(f"mount -t {fstype} {disk.device} {folder}")
        try:
            return held(folder)
        finally:
            unmount(folder)


def check_ext4(copy: Path, folder: Path, held: Callable[[Path], int]) -> int:
    number = recovered(copy, folder, "ext4", held)
    run(f"e2fsck -fn {copy}")
    return number


def check_xfs(copy: Path, folder: Path, held: Callable[[Path], int]) -> int:
    number = recovered(copy, folder, "xfs", held)
    run(f"xfs_repair -n -f {copy}")
    return number


def check_btrfs(copy: Path, folder: Path, held: Callable[[Path], int]) -> int:
    run(f"btrfs check --readonly --force {copy}")
    number = recovered(copy, folder, "btrfs", held)
    run(f"btrfs check --readonly {copy}")
    return number


CHECKS = {"ext4": check_ext4, "xfs": check_xfs, "btrfs": check_btrfs}
