"""Writes that stay in flight: nothing is concluded from how long they take, and no older byte ends above a newer one.

Real capture and real epochs over a disk whose writes the test holds, against a process server double that keeps base
and journal apart. Each case has its control: with the fault put back, it fails.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace

import numpy as np
import pytest
from tests.loopdisks import SCRATCH, require_data_mode
from tests.scenarios.capture.held_disk import HeldDisk, held_disk
from tests.scenarios.capture.replica import Recorder, apply, copy_dirty, differing_blocks
from tests.unit.mobility.doubles import KEY, MACHINE, ProcessServerDouble

from farshore.api_types.machines import EpochGrant, EpochKind
from farshore.mobility.capture import Capture, Cause
from farshore.mobility.clock import SystemClock
from farshore.mobility.disk_reader import CopiedDisk, DiskReader
from farshore.mobility.epoch_run import EpochRun, Limits
from farshore.mobility.recorded import RecordedSectors
from farshore.mobility.throttle import Bandwidth, Courtesy
from farshore.model.errors import TryLater, WrongState
from farshore.model.identifiers import DiskNumber
from farshore.model.states import CaptureMode

pytestmark = pytest.mark.root
MIB = 1 << 20
SIZE = 4 * MIB
RING = 64 << 10
NUMBER = DiskNumber(0)
_PATIENCE = 120.0


@pytest.fixture(autouse=True)
def _root():
    require_data_mode()


@pytest.fixture
def disk() -> Iterator[HeldDisk]:
    with held_disk(SIZE) as made:
        yield made


def block(value: int) -> bytes:
    return bytes([value]) * 4096


def until(done: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + _PATIENCE
    while not done():
        assert time.monotonic() < end, what
        time.sleep(0.01)


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
                patched.setattr("farshore.mobility.capture.capture.time", clock)
                if aged:
                    patched.setattr(Capture, "_not_ended", lambda capture, before: None)
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


class Gate:
    """Lets a call through when the test says so."""

    def __init__(self) -> None:
        self.reached, self.opened = threading.Event(), threading.Event()

    def wait(self) -> None:
        self.reached.set()
        assert self.opened.wait(_PATIENCE)


@contextlib.contextmanager
def epoch(disk: HeldDisk, server: ProcessServerDouble, capture: Capture) -> Iterator[EpochRun]:
    clock = SystemClock()
    grant = EpochGrant(epoch=1, kind=EpochKind.INITIAL, process_server="https://localhost:1", hash_key=KEY.hex())
    copied = [CopiedDisk(NUMBER, disk.loop.device, SIZE)]
    limits = Limits(Bandwidth(clock), Courtesy(clock, 1.0))
    made = EpochRun(MACHINE, grant, capture, copied, server, None, clock, limits)
    stop = threading.Event()
    thread = threading.Thread(target=made.run, args=(stop,))
    thread.start()
    try:
        yield made
    finally:
        stop.set()
        thread.join(_PATIENCE)
        assert not thread.is_alive()


def equal_at_last(disk: HeldDisk, server: ProcessServerDouble, run: EpochRun) -> list[int]:
    """The blocks that differ once the epoch is consistent and all of it acknowledged."""
    until(lambda: run.consistent, "not consistent")
    last = run._pump.milestone()
    last.wait(_PATIENCE)
    until(lambda: run.acknowledged >= last.sequence, "not acknowledged")
    return differing_blocks(server.state(0), disk.read())


# Which blocks are missed, and so mended, hangs on how soon the ring is drained: the control may show nothing.
@pytest.mark.parametrize("fault", [False, pytest.param(True, marks=pytest.mark.soak)], ids=["", "control"])
def test_mending_does_not_overlay_writes_in_flight(disk, monkeypatch, fault):
    """A write's record is drained, and it is still in flight when its block is mended."""
    if fault:
        monkeypatch.setattr(RecordedSectors, "within", lambda self, disk, first, end: np.zeros(end - first, bool))
    copying, mending = Gate(), Gate()
    server = ProcessServerDouble({0: SIZE}, lambda call: copying.wait() if call == "compare" else None)
    settled, entries = Capture.settled, []

    def gated(self, entry, *, timeout):
        dirty = settled(self, entry, timeout=timeout)
        entries.append(entry)
        if len(entries) == 2:
            mending.wait()
        return dirty

    monkeypatch.setattr(Capture, "settled", gated)
    with (
        Capture({NUMBER: disk.disk}, ring_bytes=RING, scratch=SCRATCH) as capture,
        epoch(disk, server, capture) as run,
    ):
        assert copying.reached.wait(_PATIENCE)
        disk.write(0, os.urandom(MIB))  # more than the ring holds: blocks 0 to 255 are missed
        assert mending.reached.wait(_PATIENCE)
        before = run.captured
        disk.hold(8192, block(2))
        until(lambda: run.captured > before, "the record was not drained")
        mending.opened.set()
        until(lambda: run._pump.whole, "not mended")
        disk.release()
        copying.opened.set()
        assert equal_at_last(disk, server, run) == ([2] if fault else [])


def enter_again_as_it_was(self, workers, stop):
    """What was missed goes into the base, below the records of the entry that failed."""
    while True:
        self._pump._ended, self._pump._opening = False, True
        workers.remove(self._pump_worker)
        if self._enter(workers, stop):
            break
    self._overlay = self._dirty.blocks


@pytest.mark.parametrize("fault", [False, True], ids=["", "control"])
def test_what_a_failed_entry_recorded_lies_below_what_was_missed_after_it(disk, monkeypatch, fault):
    if fault:
        monkeypatch.setattr(EpochRun, "_enter_again", enter_again_as_it_was)
    gap, entries, enter = Gate(), [], Capture.enter_data_mode

    def gated(self):
        entries.append(self)
        if len(entries) == 2:
            gap.wait()
        return enter(self)

    monkeypatch.setattr(Capture, "enter_data_mode", gated)
    server = ProcessServerDouble({0: SIZE})
    with Capture({NUMBER: disk.disk}, ring_bytes=RING, scratch=SCRATCH) as capture:
        disk.hold(3 * MIB, block(9))
        with epoch(disk, server, capture) as run:
            until(lambda: capture.mode is CaptureMode.DATA, "data mode was not entered")
            disk.write(2 * MIB, block(1))
            until(lambda: run.captured >= 1, "the record was not drained")
            assert not run.consistent
            disk.write(0, os.urandom(MIB))  # more than the ring holds, while the held write is waited for
            assert gap.reached.wait(_PATIENCE)
            disk.write(2 * MIB, block(2))
            gap.opened.set()
            until(lambda: len(entries) == 2 and capture.mode is CaptureMode.DATA, "data mode was not entered again")
            disk.release()
            assert equal_at_last(disk, server, run) == ([512] if fault else [])


def test_what_is_waited_for_is_told(disk):
    server = ProcessServerDouble({0: SIZE})
    with Capture({NUMBER: disk.disk}, ring_bytes=RING, scratch=SCRATCH) as capture:
        disk.hold(3 * MIB, block(9))
        with epoch(disk, server, capture) as run:
            until(lambda: "has been in flight for" in run.waiting, "not told")
            assert not run.consistent
            assert run.progress() is None
            disk.release()
            until(lambda: run.consistent, "not consistent")
            assert run.waiting == ""


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
    monkeypatch.setattr("farshore.mobility.overlay_copy.SPAN_BLOCKS", 8)
    monkeypatch.setattr("farshore.mobility.overlay_copy.GAP_BLOCKS", 0)
    copying = Gate()
    server = ProcessServerDouble({0: SIZE}, lambda call: copying.wait() if call == "compare" else None)
    with Capture({NUMBER: disk.disk}, ring_bytes=2 * RING, scratch=SCRATCH) as capture:
        held: set[int] = set()
        if chance.random() < 0.5:
            held.add(SIZE // 4096 - 1)
            disk.hold(SIZE - 4096, os.urandom(4096))
        with epoch(disk, server, capture) as run:
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
            assert equal_at_last(disk, server, run) == [], f"seed {seed}"


def _write_unaligned(disk: HeldDisk) -> None:
    descriptor = os.open(disk.loop.device, os.O_WRONLY | os.O_DIRECT)
    try:
        os.pwrite(descriptor, memoryview(mmap.mmap(-1, 8192))[4:4100], 0)
    finally:
        os.close(descriptor)
