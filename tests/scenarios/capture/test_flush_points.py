"""At every flush marker the replica, its journal replayed, passes a read-only check of its file system."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from tests.loopdisks import SCRATCH, attached, loop_disk, require_data_mode, run
from tests.scenarios.capture.replica import apply, capturing, differing_blocks

from farshore.formats.record import RecordKind

pytestmark = pytest.mark.root

MIB = 1 << 20
SIZES = {"ext4": 48 * MIB, "xfs": 320 * MIB, "btrfs": 128 * MIB}
COMMITS = {"ext4": 8, "xfs": 4, "btrfs": 8}
MKFS_OPTIONS = {"ext4": "-b 4096", "xfs": "", "btrfs": "-m single --mixed"}


@pytest.fixture(autouse=True)
def _root():
    require_data_mode()


@pytest.fixture
def scratch():
    folder = SCRATCH / "flush-points"
    folder.mkdir(parents=True)
    yield folder
    shutil.rmtree(folder)


@pytest.mark.parametrize("fstype", ["ext4", "xfs", "btrfs"])
def test_every_flush_is_a_sound_file_system(fstype, scratch):
    with (
        loop_disk(SIZES[fstype], fstype, mkfs_options=MKFS_OPTIONS[fstype]) as disk,
        capturing({0: disk}) as (
            capture,
            recorder,
        ),
    ):
        capture.begin_data_mode()
        with disk.frozen():
            replica = disk.read()
            start = capture.position()
        committed = commit_numbers(disk.folder, COMMITS[fstype])
        with disk.frozen():
            end = capture.position()
            truth = disk.read()
        records = recorder.records(start, end)
    # Only now that the original is gone: two btrfs with one identity must not meet.
    markers = np.flatnonzero(records["kind"] == RecordKind.FLUSH).tolist()
    assert len(markers) >= COMMITS[fstype]
    image, copy = scratch / "replica.img", scratch / "copy.img"
    replica.tofile(image)
    at, seen = 0, []
    view = np.memmap(image, np.uint8, "r+")
    for marker in [*markers, len(records)]:
        apply(view, records[at:marker])
        view.flush()
        at = marker
        run(f"cp --reflink=auto --sparse=always {image} {copy}")
        seen.append(CHECKS[fstype](copy, scratch / "mount"))
    assert differing_blocks(np.asarray(view), truth) == []
    assert seen == sorted(seen), "a later point holds less"
    assert seen[-1] == committed


def commit_numbers(folder: Path, count: int) -> int:
    """Numbers, each in a file of its own, renamed and synced, amid other changes; the last one committed."""
    for n in range(1, count + 1):
        (folder / "new").write_text(f"{n}\n" * 3000)
        subprocess.run(["sync", folder / "new"], check=True)
        (folder / "new").rename(folder / "number")
        for i in range(12):
            (folder / f"other-{i}").write_bytes(bytes([n]) * 2000 * i)
        (folder / f"other-{n % 12}").unlink()
        subprocess.run(["sync", "-f", folder], check=True)
    return count


def number_in(folder: Path) -> int:
    """The number that a recovered file system holds; its file must be whole."""
    with contextlib.suppress(FileNotFoundError):
        lines = (folder / "number").read_text().splitlines()
        assert len(lines) == 3000
        assert len(set(lines)) == 1
        return int(lines[0])
    return 0


def recovered(copy: Path, folder: Path, fstype: str) -> int:
    """Mount, which replays the journal, look, unmount."""
    folder.mkdir(exist_ok=True)
    with attached(copy, folder) as disk:
        run(f"mount -t {fstype} {disk.device} {folder}")
        try:
            return number_in(folder)
        finally:
            run(f"umount {folder}")


def check_ext4(copy: Path, folder: Path) -> int:
    number = recovered(copy, folder, "ext4")
    run(f"e2fsck -fn {copy}")
    return number


def check_xfs(copy: Path, folder: Path) -> int:
    number = recovered(copy, folder, "xfs")
    run(f"xfs_repair -n -f {copy}")
    return number


def check_btrfs(copy: Path, folder: Path) -> int:
    run(f"btrfs check --readonly --force {copy}")
    number = recovered(copy, folder, "btrfs")
    run(f"btrfs check --readonly {copy}")
    return number


CHECKS = {"ext4": check_ext4, "xfs": check_xfs, "btrfs": check_btrfs}
