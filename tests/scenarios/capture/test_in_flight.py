"""Pages that change while they are being written back: the last change always comes."""

from __future__ import annotations

import mmap
import os
import random
import threading
import time

import numpy as np
import pytest
from tests.loopdisks import loop_disk, require_data_mode
from tests.scenarios.capture.replica import apply, capturing, differing_blocks

from farshore.formats.record import RecordKind
from farshore.model.states import CaptureMode

pytestmark = pytest.mark.root
MIB = 1 << 20
PAGES = 512


@pytest.fixture(autouse=True)
def _root():
    require_data_mode()


@pytest.mark.parametrize("fstype", ["ext4", "xfs"])
def test_pages_changed_in_flight_come_again(fstype):
    with loop_disk(320 * MIB, fstype) as disk, capturing({0: disk}) as (capture, recorder):
        path = disk.folder / "mapped"
        path.write_bytes(bytes(PAGES * 4096))
        os.sync()
        capture.begin_data_mode()
        with disk.frozen():
            replica, start = disk.read(), capture.position()
        with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as view:
            stop = threading.Event()

            changed = [0, 0]

            def change(number: int) -> None:
                rng = random.Random(number)
                while not stop.is_set():
                    changed[number] += 1
                    at = rng.randrange(PAGES) * 4096 + rng.randrange(4000)
                    view[at : at + 64] = rng.randbytes(64)

            changers = [threading.Thread(target=change, args=(number,)) for number in (0, 1)]
            for changer in changers:
                changer.start()
            for round_number in range(40):
                os.fsync(file.fileno())  # the pages change on while this writes them
                while sum(changed) < (round_number + 1) * PAGES:
                    time.sleep(0.001)
            stop.set()
            for changer in changers:
                changer.join()
            with disk.frozen():
                end, truth = capture.position(), disk.read()
        records = recorder.records(start, end)
        apply(replica, records)
        assert capture.mode is CaptureMode.DATA
        assert differing_blocks(replica, truth) == []
        _, times = np.unique(records["sector"][records["kind"] == RecordKind.WRITE], return_counts=True)
        assert np.count_nonzero(times > 5) > PAGES // 2, "the pages were not written over and over"
