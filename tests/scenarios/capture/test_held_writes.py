"""Writes that stay in flight: nothing is concluded from how long they take, and no older byte ends above a newer one.

Real capture and real epochs over a disk whose writes the test holds, against a process server double that keeps base
and journal apart. Each case has its control: with the fault put back, it fails.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import random
import time
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
from tests.loopdisks import SCRATCH, require_data_mode
from tests.scenarios.capture.held_disk import HeldDisk, held_disk
from tests.scenarios.capture.replica import Recorder, apply, copy_dirty, differing_blocks
from tests.scenarios.capture.whole_epochs import (
    MIB,
    NUMBER,
    RING,
    SIZE,
    Gate,
    block,
    entered_twice,
    epoch,
    mending_in_flight,
)
from tests.unit.mobility.doubles import ProcessServerDouble
from tests.waiting import until

from farshore.mobility.capture import Capture, Cause
from farshore.mobility.capture.flights import Flights
from farshore.mobility.copying.disk_reader import DiskReader
from farshore.model.errors import TryLater, WrongState
from farshore.model.states import CaptureMode

pytestmark = pytest.mark.root


@pytest.fixture(autouse=True)
def _root():
    require_data_mode()


@pytest.fixture
def disk() -> Iterator[HeldDisk]:
    with held_disk(SIZE) as made:
        yield made


# ---- the capture by itself ----


@contextlib.contextmanager
def recording(disk: HeldDisk, ring_bytes: int = 4 * MIB) -> Iterator[tuple[Capture, Recorder]]:
    with Capture({NUMBER: disk.disk}, ring_bytes=ring_bytes, scratch=SCRATCH) as capture:
        recorder = Recorder(capture)
        try:
            yield capture, recorder
        finally:
            recorder.stop()


def test_a_held_write_is_waited_for_and_told_however_long_it_takes(disk):
    with recording(disk) as (capture, recorder):
        replica = disk.read()
        capture.begin_data_mode()
        capture.stop_data_mode()
        disk.hold(8192, block(1))
        entry = capture.enter_data_mode()
        for _ in range(3):
            with pytest.raises(
                TryLater, match=rf"Disk {disk.disk.name} .* 4096 bytes at sector 16, has been in flight"
            ):
                capture.settled(entry, timeout=0.2)
            assert capture.mode is CaptureMode.DATA, "the journal goes on meanwhile"
        assert capture.quiet_position(NUMBER, 0, 16) is not None
        assert capture.quiet_position(NUMBER, 16, 17) is None
        disk.write(16384, block(2))
        disk.release()
        dirty = capture.settled(entry)
        assert dirty.blocks[NUMBER].tolist() == [[2, 1]]
        copy_dirty(replica, disk.loop, dirty)
        records = recorder.records(entry.position, capture.position())
        assert records["sector"].tolist() == [32]
        apply(replica, records)
        assert differing_blocks(replica, disk.read()) == []


def test_an_age_is_no_reason_and_the_control_shows_what_it_would_cost(disk, monkeypatch):
    """The clock runs ahead by years. Control: what is old is taken as landed, as it once was."""
    for aged in (False, True):
        with recording(disk) as (capture, recorder):
            replica = disk.read()
            capture.begin_data_mode()
            capture.stop_data_mode()
            disk.hold(8192, os.urandom(4096))
            entry = capture.enter_data_mode()
            ahead = time.monotonic_ns() + 10**17
            clock = SimpleNamespace(monotonic=time.monotonic, monotonic_ns=lambda: ahead, sleep=time.sleep)  # noqa: B023
            with monkeypatch.context() as patched:
                for module in ("capture", "flights"):
                    patched.setattr(f"farshore.mobility.capture.{module}.time", clock)
                if aged:
                    patched.setattr(Flights, "not_ended", lambda flights, before: None)
                    dirty = capture.settled(entry, timeout=0.5)
                    copy_dirty(replica, disk.loop, dirty)
                else:
                    with pytest.raises(TryLater):
                        capture.settled(entry, timeout=0.5)
            disk.release()
            if not aged:
                copy_dirty(replica, disk.loop, capture.settled(entry))
            apply(replica, recorder.records(entry.position, capture.position()))
            assert differing_blocks(replica, disk.read()) == ([2] if aged else [])


def test_a_write_from_before_the_capture_that_lands_later_is_noticed(disk):
    """It is in no map and in no record: its end is seen, and its blocks are copied again."""
    disk.hold(8192, block(7))
    with recording(disk) as (capture, recorder):
        until(lambda: _settles(capture), "not settled")
        replica = disk.read()
        position = capture.position()
        disk.write(0, block(1))
        disk.release()
        assert capture.mode is CaptureMode.BITMAP
        assert capture.status().cause is Cause.UNSEEN
        apply(replica, recorder.records(position, capture.position()))
        assert differing_blocks(replica, disk.read()) == [2], "control: without another entry it would stay"
        dirty = capture.begin_data_mode()
        copy_dirty(replica, disk.loop, dirty)
        assert differing_blocks(replica, disk.read()) == []
        counters = capture.counters()[NUMBER]
        assert counters.unplaced == 0
        assert counters.written == counters.written_done


def _settles(capture: Capture) -> bool:
    try:
        capture.begin_data_mode(timeout=1.0)
    except TryLater:
        return False
    return True


def test_data_mode_that_has_ended_is_not_settled(disk):
    with recording(disk) as (capture, _):
        entry = capture.enter_data_mode()
        capture.stop_data_mode()
        disk.write(0, block(1))
        with pytest.raises(WrongState):
            capture.settled(entry)
        assert capture.begin_data_mode().blocks[NUMBER].tolist() == [[0, 1]]


# ---- whole epochs ----


@pytest.mark.parametrize("fault", [False, True], ids=["", "control"])
def test_mending_does_not_overlay_writes_in_flight(disk, monkeypatch, fault):
    """A write's record is drained, and it is still in flight when its block is mended."""
    with mending_in_flight(disk, monkeypatch, fault=fault) as made:
        assert made.differing() == ([2] if fault else [])


@pytest.mark.parametrize("fault", [False, True], ids=["", "control"])
def test_what_a_failed_entry_recorded_lies_below_what_was_missed_after_it(disk, monkeypatch, fault):
    with entered_twice(disk, monkeypatch, fault=fault) as made:
        assert made.differing() == ([512] if fault else [])


def test_what_is_waited_for_is_told(disk):
    server = ProcessServerDouble({0: SIZE})
    with epoch(disk, server, first=lambda: disk.hold(3 * MIB, block(9))) as made:
        until(lambda: "has been in flight for" in made.run.waiting, "not told")
        assert not made.run.consistent
        assert made.run.progress() is None
        disk.release()
        until(lambda: made.run.consistent, "not consistent")
        assert made.run.waiting == ""


@pytest.mark.soak
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("seed", range(30))
def test_any_schedule_of_held_writes_overflows_and_refusals_ends_equal(disk, seed, monkeypatch):
    """Data mode is entered many times in one epoch, with writes in flight all along. A failure names its seed.

    Mending is slow, so that writes come and are held in the middle of it. With every earlier write taken as landed, one
    of four seeds fails. Older bytes above a write in flight it hardly ever sees, as a later overflow heals them: for
    that there is the test above.
    """
    chance = random.Random(seed)
    read = DiskReader.read

    def slow(self, offset, view):
        time.sleep(0.03)
        read(self, offset, view)

    monkeypatch.setattr(DiskReader, "read", slow)
    monkeypatch.setattr("farshore.mobility.copying.overlay_copy.SPAN_BLOCKS", 8)
    monkeypatch.setattr("farshore.mobility.copying.overlay_copy.GAP_BLOCKS", 0)
    copying = Gate()
    server = ProcessServerDouble({0: SIZE}, lambda call: copying.wait() if call == "compare" else None)
    held: set[int] = set()

    def hold_the_last() -> None:
        if chance.random() < 0.5:
            held.add(SIZE // 4096 - 1)
            disk.hold(SIZE - 4096, os.urandom(4096))

    with epoch(disk, server, ring=2 * RING, first=hold_the_last) as made:
        for _ in range(25):
            kind = chance.choice(("write", "write", "release", "burst", "refused", "wait"))
            if kind == "write":
                at = chance.randrange(SIZE // 512 - 16)
                if not {at // 8, at // 8 + 1, at // 8 + 2} & held:
                    disk.write(at * 512, os.urandom(512 * chance.choice((1, 8, 16))))
            elif kind == "release":
                disk.release()
                held.clear()
            elif kind == "burst":  # more than the ring holds
                missed = chance.randrange(768)
                if not held & set(range(missed, missed + 256)):
                    disk.write(missed * 4096, os.urandom(MIB))
                    for one in chance.sample(range(missed + 128, missed + 256), chance.randrange(3)):
                        held.add(one)  # while it is being mended
                        disk.hold(one * 4096, os.urandom(4096))
            elif kind == "refused":
                with contextlib.suppress(OSError):
                    _write_unaligned(disk)
            else:  # long enough, mostly, for the mending to end where no held write keeps it from beginning
                time.sleep(chance.choice((0.1, 3.0)))
        disk.release()
        copying.opened.set()
        assert made.differing() == [], f"seed {seed}"


def _write_unaligned(disk: HeldDisk) -> None:
    descriptor = os.open(disk.loop.device, os.O_WRONLY | os.O_DIRECT)
    try:
        os.pwrite(descriptor, memoryview(mmap.mmap(-1, 8192))[4:4100], 0)
    finally:
        os.close(descriptor)
