"""What capture records, replayed over a copy of the disk, is the disk: bit for bit, on every file system."""

from __future__ import annotations

import numpy as np
import pytest
from tests.loopdisks import loop_disk, require_data_mode, run
from tests.scenarios.capture.replica import apply, capturing, differing_blocks
from tests.scenarios.capture.workloads import all_work, file_work

from farshore.formats.record import RecordKind
from farshore.model.states import CaptureMode

pytestmark = pytest.mark.root

SIZES = {"ext4": 256 << 20, "xfs": 384 << 20, "btrfs": 384 << 20}


@pytest.fixture(autouse=True)
def _root():
    require_data_mode()


@pytest.mark.parametrize("fstype", ["ext4", "xfs", "btrfs"])
def test_replica_equals_disk_after_all_kinds_of_work(fstype):
    with loop_disk(SIZES[fstype], fstype) as disk, capturing({0: disk}) as (capture, recorder):
        dirty = capture.begin_data_mode()
        with disk.frozen():
            replica = disk.read()
            start = capture.position()
        all_work(disk.folder)
        with disk.frozen():
            end = capture.position()  # before the thaw, which writes the superblock
            truth = disk.read()
        assert capture.mode is CaptureMode.DATA, capture.status()
        assert dirty.position <= start
        records = recorder.records(start, end)
        assert {RecordKind.WRITE, RecordKind.DISCARD, RecordKind.FLUSH} <= set(records["kind"].tolist())
        apply(replica, records)
        assert differing_blocks(replica, truth) == []


def test_checker_fails_when_one_write_in_seven_is_dropped():
    """A checker that cannot fail is no checker."""
    with loop_disk(SIZES["ext4"], "ext4") as disk, capturing({0: disk}) as (capture, recorder):
        capture.begin_data_mode()
        with disk.frozen():
            replica = disk.read()
            start = capture.position()
        file_work(disk.folder)
        with disk.frozen():
            end = capture.position()
            truth = disk.read()
        records = recorder.records(start, end)
        kept = np.ones(len(records), np.bool_)
        kept[np.flatnonzero(records["kind"] == RecordKind.WRITE)[::7]] = False
        spoilt = replica.copy()
        apply(spoilt, records[kept])
        apply(replica, records)
        missing = differing_blocks(spoilt, truth)
        assert differing_blocks(replica, truth) == []
        assert len(missing) > 100
        dropped = set((records["sector"][~kept] // 8).tolist())
        assert set(missing) <= dropped


@pytest.mark.parametrize("sector_size", [512, 4096])
def test_raw_disk_with_discards_and_zeroes(sector_size):
    size = 128 << 20
    with loop_disk(size, sector_size=sector_size) as disk, capturing({0: disk}) as (capture, recorder):
        run(f"dd if=/dev/urandom of={disk.device} bs=4M count=32 oflag=direct status=none")
        start = capture.begin_data_mode().position
        replica = disk.read()
        run(f"blkdiscard -o {3 << 20} -l {17 << 20} {disk.device}")
        run(f"blkdiscard -z -o {(40 << 20) + 4096} -l {5 << 20} {disk.device}")
        for i in range(20):
            disk.write(i * 99 * 4096, bytes([i + 1]) * sector_size * (i + 1))
        run(f"blkdiscard -z -o {100 << 20} -l {28 << 20} {disk.device}")
        end = capture.position()
        records = recorder.records(start, end)
        assert capture.mode is CaptureMode.DATA
        apply(replica, records)
        assert differing_blocks(replica, disk.read()) == []
        counters = capture.counters()[0]
        assert counters.discarded == 17 << 20
        assert int(records["length"][records["kind"] == RecordKind.DISCARD].sum()) == 17 << 20
