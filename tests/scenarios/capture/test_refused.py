"""Writes that are refused never reach the disk, so they are in no record, and they cost no other write anything."""

from __future__ import annotations

import mmap
import os
import threading
from pathlib import Path

import numpy as np
import pytest
from tests.loopdisks import LoopDisk, loop_disk, require_data_mode
from tests.scenarios.capture.replica import apply, capturing, differing_blocks

from farshore.formats.record import RecordKind
from farshore.model.states import CaptureMode

pytestmark = pytest.mark.root
MIB = 1 << 20
_RWF_NOWAIT = 8
_THREADS, _BLOCKS = 8, 128


@pytest.fixture(autouse=True)
def _root():
    require_data_mode()


@pytest.fixture(params=[False, True], ids=["", "control"])
def recorded_when_queued(request, monkeypatch) -> bool:
    """Control: writes are taken down before the block layer has accepted them, as they once were."""
    if request.param:
        monkeypatch.setattr("farshore.mobility.capture.watched.works_on_requests", lambda device: False)
    return bool(request.param)


def write_without_waiting(disk: LoopDisk) -> tuple[int, int]:
    """Threads that overfill the disk's queue and do not try again: writes that landed, and that were refused."""
    queue = Path("/sys/block", disk.device.name, "queue", "nr_requests")
    queue.write_text("4")
    landed: list[int] = []
    refused: list[int] = []

    def work(number: int) -> None:
        descriptor, buffer = os.open(disk.device, os.O_WRONLY | os.O_DIRECT), mmap.mmap(-1, 4096)
        while len(refused) < 50 or len(landed) < 50:
            buffer[:] = os.urandom(4096)
            block = number * _BLOCKS + len(refused) % _BLOCKS
            try:
                os.pwritev(descriptor, [buffer], block * 4096, _RWF_NOWAIT)
                landed.append(block)
            except BlockingIOError:
                refused.append(block)
        os.close(descriptor)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(_THREADS)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    return len(landed), len(refused)


def test_writes_that_were_not_to_wait_and_got_no_request(recorded_when_queued):
    with loop_disk(16 * MIB) as disk, capturing({0: disk}) as (capture, recorder):
        start = capture.begin_data_mode().position
        replica = disk.read()
        landed, refused = write_without_waiting(disk)
        assert landed >= 50
        assert refused >= 50
        assert capture.mode is (CaptureMode.BITMAP if recorded_when_queued else CaptureMode.DATA)
        records = recorder.records(start, capture.position())
        apply(replica, records)
        if recorded_when_queued:
            assert differing_blocks(replica, disk.read()) != []
            return
        assert differing_blocks(replica, disk.read()) == []
        assert np.count_nonzero(records["kind"] == RecordKind.WRITE) == landed
        counters = capture.counters()[0]
        assert (counters.failed, counters.mapped) == (0, 0)


def test_writes_that_the_block_layer_finds_invalid(recorded_when_queued):
    """Anybody who may open the device can have as many of them as he likes."""
    with loop_disk(16 * MIB) as disk, capturing({0: disk}) as (capture, recorder):
        start = capture.begin_data_mode().position
        replica = disk.read()
        memory = memoryview(mmap.mmap(-1, 16384))
        descriptor = os.open(disk.device, os.O_WRONLY | os.O_DIRECT)
        for _ in range(20):
            for parts in ([memory[4:4100]], [memory[:100], memory[4096:4508]]):
                with pytest.raises(OSError, match="Invalid argument"):
                    os.pwritev(descriptor, parts, MIB)
        os.close(descriptor)
        disk.write(0, b"x" * 4096)
        if recorded_when_queued:
            # Where the kernel looks at the memory before it makes a bio, there is nothing to see either way.
            refused = capture.counters()[0].written_refused
            assert (capture.mode is CaptureMode.BITMAP) == (refused > 0)
            return
        assert capture.mode is CaptureMode.DATA
        records = recorder.records(start, capture.position())
        assert records["sector"].tolist() == [0]
        apply(replica, records)
        assert differing_blocks(replica, disk.read()) == []
