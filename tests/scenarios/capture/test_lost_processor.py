"""A run of the program that loses its processor before it has noted its write, while the kernel is asked for an
instant without writes in flight: a hypervisor or an interrupt may take any time there."""

from __future__ import annotations

import contextlib
import functools
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from tests.loopdisks import SCRATCH, require_data_mode
from tests.scenarios.capture.altered_program import altered_program
from tests.scenarios.capture.held_disk import HeldDisk, held_disk
from tests.scenarios.capture.replica import Recorder, apply, copy_dirty, differing_blocks
from tests.waiting import until

from farshore.mobility.capture import Capture, Dirty
from farshore.mobility.capture.program import Program
from farshore.model.errors import TryLater
from farshore.model.identifiers import DiskNumber

pytestmark = pytest.mark.root
MIB = 1 << 20
NUMBER = DiskNumber(0)
BLOCK = 2
_UNDER_WAY = 4242
_BEGUN = """
	u64 sector = bio->bi_iter.bi_sector;
	u32 length = bio->bi_iter.bi_size;
	u8 flags = 0;
"""
_WAITING = f"""
	u64 sector = bio->bi_iter.bi_sector;
	u32 length = bio->bi_iter.bi_size;
	u8 flags = 0;
	if (sector == {BLOCK * 8} && length == 4096) {{
		ctl->lost = {_UNDER_WAY};
		bpf_loop(100, waits_on, &ctl, 0);
	}}
"""
_TAKE = "static __always_inline int take(struct bio *bio, int has_request)\n{\n"
_WAITS = f"""
static long waits(u32 i, struct control **ctl)
{{
	return *(volatile u64 *)&(*ctl)->lost != {_UNDER_WAY};
}}

static long waits_on(u32 i, struct control **ctl)
{{
	bpf_loop(8 << 20, waits, ctl, 0);
	return *(volatile u64 *)&(*ctl)->lost != {_UNDER_WAY};
}}

"""


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A program that waits in the middle of a run until ``lost`` is changed, or for seconds."""
    require_data_mode()
    return altered_program(tmp_path_factory.mktemp("program"), {_BEGUN: _WAITING, _TAKE: _WAITS + _TAKE})


@pytest.fixture
def disk() -> Iterator[HeldDisk]:
    with held_disk(4 * MIB) as made:
        yield made


@contextlib.contextmanager
def recording(disk: HeldDisk) -> Iterator[tuple[Capture, Recorder]]:
    with Capture({NUMBER: disk.disk}, ring_bytes=4 * MIB, scratch=SCRATCH) as capture:
        recorder = Recorder(capture)
        try:
            yield capture, recorder
        finally:
            recorder.stop()


@pytest.mark.parametrize("fault", [False, True], ids=["", "control"])
def test_a_write_whose_run_is_under_way_while_the_disk_is_quiet_is_not_taken_as_landed(disk, slow, monkeypatch, fault):
    monkeypatch.setattr("farshore.mobility.capture.capture.Program", functools.partial(Program, object_path=slow))
    with recording(disk) as (capture, recorder), ThreadPoolExecutor(1) as other:
        control = capture._program.control
        capture.begin_data_mode()
        replica, start = disk.read(), capture.position()
        held = other.submit(disk.hold, BLOCK * 4096, os.urandom(4096))
        until(lambda: control.lost == _UNDER_WAY, "the write was not submitted", pause=0.001)

        def let_go() -> None:
            control.lost = 0

        with monkeypatch.context() as patched:
            if fault:
                patched.setattr("farshore.mobility.capture.flights.grace_period", lambda: None)
            else:
                threading.Timer(0.1, let_go).start()
            capture._flights.is_quiet(NUMBER, capture._disks.get(NUMBER))
        let_go()
        held.result()
        assert (capture.quiet_position(NUMBER, BLOCK * 8, BLOCK * 8 + 8) is None) is not fault
        # The block is to be mended: it was missed before the write came, and the ring has overflowed again since.
        capture.stop_data_mode()
        capture.give_back(Dirty(0, {NUMBER: np.array([[BLOCK, 1]])}))
        entry = capture.enter_data_mode()
        if not fault:
            with pytest.raises(TryLater, match="has not completed 1 earlier write"):
                capture.settled(entry, timeout=0.1)
            disk.release()
        dirty = capture.settled(entry)
        apply(replica, recorder.records(start, entry.position))
        copy_dirty(replica, disk.loop, dirty)
        apply(replica, recorder.records(entry.position, capture.position()))
        disk.release()
        assert differing_blocks(replica, disk.read()) == ([BLOCK] if fault else [])
