"""Whatever keeps a write out of the ring, it ends in the bitmap, and a new epoch begun from there is exact again."""

from __future__ import annotations

import contextlib
import mmap
import os
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from tests.loopdisks import SCRATCH, loop_disk, read_direct, require_data_mode, run
from tests.scenarios.capture.replica import (
    Recorder,
    apply,
    assert_accounts_agree,
    capturing,
    copy_dirty,
    differing_blocks,
)
from tests.scenarios.capture.workloads import file_work

from farshore.formats.record import RecordKind
from farshore.mobility.capture import Capture, Cause
from farshore.mobility.capture.disks import disk_at
from farshore.model.errors import TryLater
from farshore.model.states import CaptureMode

pytestmark = pytest.mark.root

MIB = 1 << 20


@pytest.fixture(autouse=True)
def _root():
    require_data_mode()


def heal(capture: Capture, recorder: Recorder):
    """Drain what is left of the old epoch, begin the new one."""
    recorder.resume()
    recorder.records(0, capture.position())
    return capture.begin_data_mode()


def test_overflow_ends_in_the_bitmap_and_heals_while_writes_go_on():
    with loop_disk(256 * MIB, "ext4") as disk, capturing({0: disk}, ring_bytes=32 * MIB) as (capture, recorder):
        capture.begin_data_mode()
        with disk.frozen():
            replica = disk.read()
            start = capture.position()
        recorder.pause()
        file_work(disk.folder, seed=0)
        file_work(disk.folder, seed=1)
        assert capture.mode is CaptureMode.BITMAP
        assert capture.status().cause is Cause.RING_FULL
        stopped = capture.position()
        file_work(disk.folder, seed=2)
        assert capture.position() == stopped, "records in bitmap mode"
        dirty = heal(capture, recorder)
        assert dirty.position == stopped
        # The new epoch: parent's state, then the base, copied while writes go on, then the journal.
        file_work(disk.folder, seed=3)
        apply(replica, recorder.records(start, dirty.position))
        assert copy_dirty(replica, disk, dirty) > 1000
        file_work(disk.folder, seed=4)
        with disk.frozen():
            end = capture.position()
            truth = disk.read()
        assert capture.mode is CaptureMode.DATA
        apply(replica, recorder.records(dirty.position, end))
        assert differing_blocks(replica, truth) == []
        assert capture.counters()[0].mapped > 0


def once_drained(begin):
    """What ``begin`` returns, once the recorder, which a busy host may keep waiting, has drained half of the ring."""
    while True:
        try:
            return begin()
        except TryLater as error:
            if "not drained" not in str(error):
                raise
            time.sleep(0.05)


def test_switching_back_and_forth_under_full_queues_loses_nothing():
    """Each round a new epoch whose parent's tail, base and journal must fit together; the disk is never idle."""
    with loop_disk(96 * MIB) as disk, capturing({0: disk}) as (capture, recorder):
        position = capture.begin_data_mode().position
        replica = disk.read()

        def next_epoch(before):
            dirty = once_drained(lambda: capture.begin_data_mode(timeout=20))
            apply(replica, recorder.records(before, dirty.position))
            copy_dirty(replica, disk, dirty)
            return dirty.position

        fio = subprocess.Popen(
            f"fio --name=load --filename={disk.device} --rw=randwrite --bs=4k-64k --iodepth=32 --ioengine=libaio"
            " --direct=1 --time_based --runtime=600 --size=96m --rate=40m --output=/dev/null".split()
        )
        rounds = 0
        try:
            while rounds < 8:
                written = capture.counters()[0].written
                while capture.counters()[0].written < written + MIB:
                    assert fio.poll() is None
                    time.sleep(0.01)
                if rounds % 2:
                    capture.stop_data_mode()
                    time.sleep(0.05)
                position = next_epoch(position)
                rounds += 1
        finally:
            fio.send_signal(signal.SIGINT)
            fio.wait()
        if capture.status().cause is Cause.RING_FULL:  # a busy host kept the recorder from reading: that is healed too
            position = next_epoch(position)
        assert capture.mode is CaptureMode.DATA, capture.status()
        apply(replica, recorder.records(position, capture.position()))
        assert differing_blocks(replica, disk.read()) == []
        assert capture.counters()[0].mapped > 0


@pytest.mark.parametrize("ring_mib", [16, 128])
def test_one_huge_write_is_captured_whole_or_mapped_whole(ring_mib):
    """A single bio of tens of MiB, from huge pages, which the block layer splits: every piece comes by itself."""
    length = 48 * MIB
    whole = ring_mib == 128
    with (
        loop_disk(128 * MIB) as disk,
        capturing({0: disk}, ring_bytes=ring_mib * MIB) as (capture, recorder),
    ):
        position = capture.begin_data_mode().position
        if not whole:
            recorder.pause()  # a quick reader makes room as fast as the write comes, and it is captured whole after all
        replica = disk.read()
        before = capture.counters()[0]
        Path("/proc/sys/vm/compact_memory").write_text("1")  # so that there are huge pages to be had
        with mmap.mmap(-1, length + 2 * MIB, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as buffer:
            buffer.madvise(mmap.MADV_HUGEPAGE)
            pattern = np.random.default_rng(7).integers(0, 256, len(buffer), np.uint8)
            np.frombuffer(buffer, np.uint8)[:] = pattern
            descriptor = os.open(disk.device, os.O_WRONLY | os.O_DIRECT)
            view = memoryview(buffer)[512 : 512 + length]  # every record then crosses a page
            assert os.pwritev(descriptor, [view], 5 * MIB + 512) == length
            view.release()
            os.close(descriptor)
        after = capture.counters()[0]
        assert after.written - before.written == length
        most = int(Path("/sys/block", disk.device.name, "queue", "max_sectors_kb").read_text()) << 10
        assert after.bios - before.bios >= length / most, "the block layer did not split it"
        assert capture.mode is (CaptureMode.DATA if whole else CaptureMode.BITMAP)
        if not whole:
            recorder.resume()
            end = capture.position()
            apply(replica, recorder.records(position, end))
            dirty = heal(capture, recorder)
            copy_dirty(replica, disk, dirty)
            position = dirty.position
        apply(replica, recorder.records(position, capture.position()))
        assert differing_blocks(replica, disk.read()) == []


def test_a_failed_write_is_looked_at_again():
    """The ring says it was written, the disk does not hold it: its blocks must come with the next epoch's base."""
    with loop_disk(40 * MIB, "ext4") as outer:
        image = outer.folder / "inner.img"
        with image.open("wb") as file:
            file.truncate(96 * MIB)  # sparse, in too small a file system: writes fail when that is full
        device = run(f"losetup -f --show --direct-io=on {image}").strip()
        try:
            disk = disk_at(Path(device))
            with Capture({0: disk}, scratch=SCRATCH) as capture:
                recorder = Recorder(capture)
                try:
                    position = capture.begin_data_mode().position
                    replica = np.zeros(96 * MIB, np.uint8)
                    with contextlib.suppress(AssertionError):
                        run(f"dd if=/dev/urandom of={device} bs=1M count=60 oflag=direct status=none")
                    assert capture.counters()[0].failed > 0
                    assert capture.mode is CaptureMode.BITMAP
                    assert capture.status().cause is Cause.WRITE_FAILED
                    apply(replica, recorder.records(position, capture.position()))
                    assert differing_blocks(replica, read_direct(disk.path)) != []
                    dirty = heal(capture, recorder)
                    for start, count in dirty.blocks[0].tolist():
                        replica[start * 4096 : (start + count) * 4096] = read_direct(
                            disk.path, start * 4096, count * 4096
                        )
                    apply(replica, recorder.records(dirty.position, capture.position()))
                    assert differing_blocks(replica, read_direct(disk.path)) == []
                    assert_accounts_agree(capture)
                finally:
                    recorder.stop()
        finally:
            run(f"losetup -d {device}")


def test_a_grown_disk():
    """Until it is told the program cannot map what lies behind the old end, so all of the disk counts as dirty."""
    with loop_disk(64 * MIB) as disk, capturing({0: disk}) as (capture, recorder):
        capture.begin_data_mode()
        capture.stop_data_mode()
        os.truncate(disk.image, 128 * MIB)
        run(f"losetup -c {disk.device}")
        disk.write(100 * MIB, bytes(range(256)) * 16)
        capture.grow_disk(0, disk.disk)
        disk.write(120 * MIB, bytes(range(256)) * 16)
        dirty = heal(capture, recorder)
        assert dirty.blocks[0].tolist() == [[0, 128 * MIB // 4096]]
        capture.stop_data_mode()
        disk.write(120 * MIB, bytes(range(256)) * 16)
        dirty = heal(capture, recorder)
        assert dirty.blocks[0].tolist() == [[120 * MIB // 4096, 1]]


def test_an_undrained_ring_is_told_and_nothing_is_forgotten():
    with loop_disk(64 * MIB) as disk, capturing({0: disk}, ring_bytes=4 * MIB) as (capture, recorder):
        capture.begin_data_mode()
        recorder.pause()
        run(f"dd if=/dev/urandom of={disk.device} bs=1M count=8 oflag=direct status=none")
        with pytest.raises(TryLater, match="drain"):
            capture.begin_data_mode()
        dirty = heal(capture, recorder)
        capture.give_back(dirty)
        again = capture.begin_data_mode()
        assert again.blocks[0].tolist() == dirty.blocks[0].tolist()
        captured = recorder.records(0, again.position)
        covered = set((captured["sector"][captured["kind"] == RecordKind.WRITE] // 8).tolist())
        for start, count in again.blocks[0].tolist():
            covered.update(range(start, start + count))
        assert covered >= set(range(8 * MIB // 4096))
