"""Memory that changes while a write of it is in flight is no difference: it is written again, or nobody knows it.

A record holds the bytes as they were when the write was submitted; the disk may get younger ones. The
kernel tells of a mapped page, so that is no difference however often it happens. Nobody tells of a direct write: that
is none only as long as there are periods left to wait for the next one.
"""

from __future__ import annotations

import contextlib
import math
import mmap
import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.loopdisks import loop_disk, require_data_mode
from tests.scenarios.capture import whole_epochs as epochs
from tests.unit.mobility.doubles import ProcessServerDouble
from tests.waiting import PATIENCE, until

from farshore.mobility.proving import prover

pytestmark = pytest.mark.root
MIB = 1 << 20
SIZE = 64 * MIB
RING = 64 * MIB
"""The writers here hold the GIL and the pump needs it: a small ring overflows, which would end the epoch."""
PAGES = 256
SECONDS = 12.0


@contextlib.contextmanager
def mapped(path: Path) -> Iterator[tuple[memoryview, Callable[[], object]]]:
    """Its pages are written out while they change."""
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as memory, memoryview(memory) as view:
        yield view, lambda: os.fsync(file.fileno())


@contextlib.contextmanager
def direct(path: Path) -> Iterator[tuple[memoryview, Callable[[], object]]]:
    """A buffer of direct writes changes while they are in flight."""
    descriptor = os.open(path, os.O_RDWR | os.O_DIRECT)
    try:
        with mmap.mmap(-1, PAGES * 4096) as memory, memoryview(memory) as view:
            yield view, lambda: os.pwrite(descriptor, view, 0)
    finally:
        os.close(descriptor)


class UntilWritten:
    """Stands for HOLD_SECONDS: a suspected chunk is held until a write that began afterwards has ended and its records
    were drained, however long that takes."""

    def __init__(self) -> None:
        self.began = 0.0
        """The newest write of which that is so; seconds of the monotonic clock."""

    def __radd__(self, since: float) -> float:
        return since if self.began > since else math.inf

    def __mul__(self, _: float) -> float:
        return 0.0


def hammer(
    view: memoryview,
    write_out: Callable[[], object],
    stop: threading.Event,
    hold: UntilWritten,
    drained: Callable[[], object],
) -> list[threading.Thread]:
    def change() -> None:
        chance = random.Random(1)
        while not stop.is_set():
            for page in range(PAGES):
                at = page * 4096 + chance.randrange(4000)
                view[at : at + 64] = chance.randbytes(64)

    def flush() -> None:
        while not stop.is_set():
            began = time.monotonic()
            write_out()
            drained()
            hold.began = began
            stop.wait(0.3)

    threads = [threading.Thread(target=work) for work in (change, flush)]
    for thread in threads:
        thread.start()
    return threads


# The control hangs on chance: a buffer has to change just while it is written.
CASES = [(mapped, True), (direct, True), pytest.param(direct, False, marks=pytest.mark.soak)]


@pytest.mark.parametrize(("kind", "held"), CASES, ids=["mapped", "direct", "control"])
def test_what_changes_in_flight_is_no_difference(monkeypatch: pytest.MonkeyPatch, kind: Any, held: bool) -> None:
    require_data_mode()
    monkeypatch.setattr(epochs, "SIZE", SIZE)
    monkeypatch.setattr(epochs, "RING", RING)
    hold = UntilWritten()
    monkeypatch.setattr(prover, "HOLD_SECONDS", hold if held else 0.0)
    if kind is direct:
        monkeypatch.setattr(prover, "MOST_HOLDS", 10**9)
    with loop_disk(SIZE, "ext4") as loop:
        path = loop.folder / "written"
        path.write_bytes(os.urandom(PAGES * 4096))
        os.sync()
        disk: Any = SimpleNamespace(loop=loop, disk=loop.disk, read=loop.read)
        with epochs.epoch(disk, ProcessServerDouble({0: SIZE})) as made:
            until(lambda: made.run.consistent, "not consistent")
            stop, end = threading.Event(), time.monotonic() + SECONDS
            with kind(path) as (view, write_out):
                threads = hammer(view, write_out, stop, hold, lambda: made.run._pump.milestone().wait(PATIENCE))
                try:
                    while time.monotonic() < end and not made.proving.coverage.differences:
                        made.proving.demand(whole=True)
                        time.sleep(1.0)
                finally:
                    stop.set()
                    for thread in threads:
                        thread.join()
                told = made.proving.coverage.differences
                assert bool(told) != held
                write_out()
                hold.began = math.inf
            if not told:
                assert made.prove().differing == 0
                with loop.frozen():  # else the file system writes between the two readings
                    assert made.differing() == []
