"""The capture program without data mode: what its bitmap tells is all that was written to."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping

import numpy as np
import pytest
from tests.loopdisks import SCRATCH, loop_disk, read_direct, require_root, run
from tests.scenarios.capture.held_disk import held_disk
from tests.scenarios.capture.replica import BLOCK, assert_accounts_agree, differing_blocks
from tests.scenarios.capture.workloads import all_work

from farshore.mobility.capture import Capture, Dirty
from farshore.mobility.capture.bitmap import Ranges, count_blocks
from farshore.model.errors import TryLater, WrongState
from farshore.model.states import CaptureMode

pytestmark = pytest.mark.root
MIB = 1 << 20


@pytest.fixture(autouse=True)
def _root():
    require_root()


def copy(image: np.ndarray, device, blocks: Mapping[int, Ranges]) -> None:
    for start, count in blocks[0].tolist():
        at, length = start * BLOCK, min(count * BLOCK, len(image) - start * BLOCK)
        image[at : at + length] = read_direct(device, at, length)


@pytest.mark.parametrize("fstype", ["ext4", "xfs", "btrfs"])
def test_copies_of_what_it_tells_are_the_disk(fstype):
    with (
        loop_disk(400 * MIB, fstype) as disk,
        Capture({0: disk.disk}, scratch=SCRATCH, bitmap_only=True) as capture,
    ):
        assert_accounts_agree(capture)
        capture.collect()
        replica = disk.read()
        worker = threading.Thread(target=all_work, args=(disk.folder,))
        worker.start()
        told = 0
        while worker.is_alive():
            blocks = capture.collect()
            told += count_blocks(blocks[0])
            copy(replica, disk.device, blocks)
        worker.join()
        with disk.frozen():
            copy(replica, disk.device, capture.collect())
            assert capture.mode is CaptureMode.BITMAP
            assert differing_blocks(replica, disk.read()) == []
            assert not len(capture.collect()[0])
        assert told > 20 * MIB // BLOCK
        assert_accounts_agree(capture)


def test_exactly_what_was_written(tmp_path):
    """Edges of words, runs longer than a word, and a discard too long for the program to walk through: all of it."""
    with loop_disk(2048 * MIB) as disk, Capture({0: disk.disk}, scratch=SCRATCH, bitmap_only=True) as capture:
        capture.collect()
        for first, count in ((0, 1), (63, 2), (100, 1000), (300_000, 64)):
            run(f"dd if=/dev/zero of={disk.device} bs=4096 seek={first} count={count} oflag=direct status=none")
        expected = [[0, 1], [63, 2], [100, 1000], [300_000, 64]]
        assert capture.collect()[0].tolist() == expected
        run(f"blkdiscard -o {64 * MIB} -l {256 * MIB} {disk.device}")
        assert capture.collect()[0].tolist() == [[64 * MIB // BLOCK, 256 * MIB // BLOCK]]
        run(f"blkdiscard -o {64 * MIB} -l {1024 * MIB} {disk.device}")
        assert count_blocks(capture.collect()[0]) >= 1024 * MIB // BLOCK
        with pytest.raises(WrongState, match="no data mode"):
            capture.begin_data_mode()


def test_a_write_whose_queueing_was_not_seen_is_told_when_it_ends():
    """As those that md linear or RAID 0 sends on: the kernel tells of their queueing at the upper device only."""
    with held_disk(4 * MIB) as disk:
        disk.hold(2 * BLOCK, os.urandom(BLOCK))
        with Capture({0: disk.disk}, scratch=SCRATCH, bitmap_only=True) as capture:
            disk.write(5 * BLOCK, bytes(BLOCK))
            with pytest.raises(TryLater):
                capture.collect(timeout=0.1)
            disk.release()
            assert capture.collect()[0].tolist() == [[2, 1], [5, 1]]
            assert_accounts_agree(capture)


def test_given_back_is_told_again():
    with loop_disk(64 * MIB) as disk, Capture({0: disk.disk}, scratch=SCRATCH, bitmap_only=True) as capture:
        disk.write(8 * MIB, bytes(4096))
        blocks = capture.collect()
        disk.write(9 * MIB, bytes(4096))
        capture.give_back(Dirty(0, blocks))
        assert capture.collect()[0].tolist() == [[8 * MIB // BLOCK, 1], [9 * MIB // BLOCK, 1]]
