"""Where a write in flight is noted: in the place that its bio's address tells, or, where that is taken, in the map."""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import pytest
from tests.loopdisks import SCRATCH, require_data_mode
from tests.scenarios.capture.held_disk import HeldDisk, held_disk
from tests.scenarios.capture.replica import Recorder, apply, differing_blocks
from tests.waiting import until

from farshore.mobility.capture import Capture
from farshore.mobility.capture.flights import Flights
from farshore.mobility.capture.layout import FLIGHT, MAX_PLACES, PLACE
from farshore.mobility.capture.program import Program
from farshore.model.errors import TryLater
from farshore.model.identifiers import DiskNumber
from farshore.model.states import CaptureMode

pytestmark = pytest.mark.root
MIB = 1 << 20
NUMBER = DiskNumber(0)
_NOBODY = 1
"""No bio lies at an odd address."""


@pytest.fixture(autouse=True)
def _root():
    require_data_mode()


@pytest.fixture
def disk() -> Iterator[HeldDisk]:
    with held_disk(4 * MIB) as made:
        yield made


@contextlib.contextmanager
def recording(disk: HeldDisk) -> Iterator[tuple[Capture, Program, Recorder]]:
    with Capture({NUMBER: disk.disk}, ring_bytes=4 * MIB, scratch=SCRATCH) as capture:
        recorder = Recorder(capture)
        try:
            yield capture, capture._program, recorder
        finally:
            recorder.stop()


@contextlib.contextmanager
def direct(disk: HeldDisk) -> Iterator[int]:
    descriptor = os.open(disk.loop.device, os.O_WRONLY | os.O_DIRECT)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def occupy(program: Program, step: int = 1) -> None:
    """Nobody's flights take every ``step``-th place."""
    value = np.zeros((), PLACE)
    value["bio"] = _NOBODY
    for index in range(0, MAX_PLACES, step):
        program._update("places", ctypes.c_uint32(index), (ctypes.c_uint8 * 64).from_buffer_copy(value.tobytes()))


@pytest.mark.parametrize("step", [0, 1, 2], ids=["own places", "none free", "every second taken"])
def test_a_write_is_known_until_it_lands_wherever_it_is_noted(disk, step):
    with recording(disk) as (capture, program, recorder):
        capture.begin_data_mode()
        replica, start = disk.read(), capture.position()
        if step:
            occupy(program, step)
        for block in range(8, 16):
            disk.hold(block * 4096, os.urandom(4096))
        sectors = sorted(program.flying()["sector"].tolist())
        assert sectors == [block * 8 for block in range(8, 16)]
        displaced = int(program.control.displaced)
        assert displaced == {0: 0, 1: 8}.get(step, displaced)
        for block in range(64):  # others come and go meanwhile
            disk.write((32 + block) * 4096, os.urandom(4096))
        assert capture.quiet_position(NUMBER, 8 * 8, 16 * 8) is None
        assert capture.quiet_position(NUMBER, 32 * 8, 96 * 8) is not None
        entry = capture.enter_data_mode()
        with pytest.raises(TryLater, match=r"has not completed 8 earlier write"):
            capture.settled(entry, timeout=0.1)
        disk.release()
        capture.settled(entry)
        assert not len(program.flying())
        assert (program.control.displaced, program.control.lost, program.control.untracked) == (0, 0, 0)
        apply(replica, recorder.records(start, capture.position()))
        assert capture.mode is CaptureMode.DATA
        assert differing_blocks(replica, disk.read()) == []
        counters = capture.counters()[NUMBER]
        assert counters.written == counters.written_done


@pytest.mark.parametrize("where", ["place", "map"])
def test_who_comes_with_the_address_of_one_whose_end_was_not_seen_takes_its_place(disk, where):
    """The kernel has a bio of plain direct I/O on the thread's stack, so its address soon comes again."""
    with recording(disk) as (_, program, _), ThreadPoolExecutor(1) as thread, direct(disk) as descriptor:
        block = mmap.mmap(-1, 4096)

        def write() -> Future[int]:
            return thread.submit(os.pwrite, descriptor, block, 0)

        places = np.frombuffer(program._places_pages, PLACE)
        seen: list[int] = []

        def caught() -> bool:
            done = write()
            while not done.done():
                bios = places["bio"].copy()  # looked at once: a write that ends meanwhile leaves a zero
                seen.extend(bios[bios > 0].tolist())
            return bool(seen)

        until(caught, "no write was seen in flight")
        bio = seen[0]
        stale = np.zeros((), FLIGHT)
        stale["left"], stale["sector"] = 4096, 12345
        if where == "map":
            program._update("flying", ctypes.c_uint64(bio), (ctypes.c_uint8 * 40).from_buffer_copy(stale.tobytes()))
            program.control.displaced = 1
        else:
            index = (bio & 0xFFFFFFFF) * 0x9E3779B1 % (1 << 32) // ((1 << 32) // MAX_PLACES)
            value = np.zeros((), PLACE)
            value["bio"], value["flight"] = bio, stale
            program._update("places", ctypes.c_uint32(index), (ctypes.c_uint8 * 64).from_buffer_copy(value.tobytes()))
        assert program.flying()["sector"].tolist() == [12345]
        until(lambda: write().result() and not len(program.flying()), "the address did not come again", pause=0)
        assert (program.control.displaced, program.control.lost) == (0, 1)


def test_a_write_without_room_that_comes_while_the_disks_are_asked_is_not_forgotten(disk, monkeypatch):
    with recording(disk) as (capture, program, _):
        capture.begin_data_mode()
        asked = Flights.is_quiet

        def and_one_comes(self, number, watched):
            quiet = asked(self, number, watched)
            program.control.untracked += 1
            return quiet

        program.control.untracked += 1
        with monkeypatch.context() as patched:
            patched.setattr(Flights, "is_quiet", and_one_comes)
            capture.settled(capture.enter_data_mode())
        assert program.control.untracked == 2
        assert capture.quiet_position(NUMBER, 0, 8) is None
        capture.settled(capture.enter_data_mode())
        assert capture.quiet_position(NUMBER, 0, 8) is not None, "the disk was quiet since"
