"""A load that outruns the copy: it is told, and once the machine writes no more than can be carried, the copy ends.

Real capture and a real epoch with a small ring. The load is unpaced first; then each write waits for what came before
it to be in the journal.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator

import pytest
from tests.loopdisks import require_data_mode
from tests.scenarios.capture.held_disk import HeldDisk, held_disk
from tests.scenarios.capture.whole_epochs import MIB, RING, SIZE, Epoch, Gate, epoch
from tests.unit.mobility.doubles import ProcessServerDouble
from tests.waiting import PATIENCE, until

pytestmark = pytest.mark.root
_BLOCKS = SIZE // 4096


@pytest.fixture(autouse=True)
def _root():
    require_data_mode()


@pytest.fixture
def disk() -> Iterator[HeldDisk]:
    with held_disk(SIZE) as made:
        yield made


@contextlib.contextmanager
def unpaced(disk: HeldDisk) -> Iterator[None]:
    """Write more at once than the ring holds, again and again."""
    with _writing(lambda number: disk.write(number % 3 * MIB, os.urandom(MIB))):
        yield


@contextlib.contextmanager
def carried(made: Epoch) -> Iterator[list[int]]:
    """Write single blocks all over the disk, each once the journal has grown since the one before; their numbers."""
    written: list[int] = []

    def write(number: int) -> None:
        before = made.run.captured
        made.disk.write(number * 37 % _BLOCKS * 4096, os.urandom(4096))
        written.append(number)
        until(lambda: made.run.captured > before, "the write is not in the journal", pause=0.001)

    with _writing(write):
        yield written


@contextlib.contextmanager
def _writing(write: Callable[[int], None]) -> Iterator[None]:
    stop = threading.Event()
    failed: list[BaseException] = []

    def work() -> None:
        try:
            number = 0
            while not stop.is_set():
                write(number)
                number += 1
        except BaseException as error:  # noqa: BLE001 - raised below, where the test sees it
            failed.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
    assert not failed, failed


def test_a_load_that_outruns_the_copy_is_told_and_the_copy_ends_when_it_falls(disk, monkeypatch):
    monkeypatch.setattr("farshore.mobility.stream.epoch_run._LITTLE_BYTES", 64 << 10)
    copying = Gate()
    server = ProcessServerDouble({0: SIZE}, lambda call: copying.wait() if call == "compare" else None)
    with epoch(disk, server) as made:
        assert copying.reached.wait(PATIENCE)
        assert made.run.outrun == ""
        with unpaced(disk):
            told = until(lambda: made.run.outrun, "not told")
        assert f"the capture ring of {RING >> 10} KiB has overflowed" in told
        assert not made.run.consistent
        with carried(made) as written:
            copying.opened.set()
            until(lambda: made.run.consistent, "not consistent although the load has fallen")
            assert made.run.outrun == ""
            before = len(written)
            until(lambda: len(written) >= before + 20, "no write is carried")
        assert made.differing() == []
        assert made.ended is None


def test_one_overflow_is_a_burst(disk):
    copying = Gate()
    server = ProcessServerDouble({0: SIZE}, lambda call: copying.wait() if call == "compare" else None)
    with epoch(disk, server) as made:
        assert copying.reached.wait(PATIENCE)
        disk.write(0, os.urandom(MIB))
        until(lambda: made.run._overflows == 1, "no overflow")
        assert made.run.outrun == ""
        copying.opened.set()
        assert made.differing() == []
