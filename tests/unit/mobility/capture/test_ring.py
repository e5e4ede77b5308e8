"""The ring's reader over a file that looks like the kernel's mapping: positions, data, data again."""

from __future__ import annotations

import mmap
import os

import numpy as np
import pytest

from farshore.mobility.capture.layout import (
    RING_HEADER_BUSY,
    RING_HEADER_DISCARDED,
    RING_RECORD,
    RING_RECORD_BYTES,
)
from farshore.mobility.capture.ring import Ring

SIZE = 1 << 16  # 15 records and a rest, so that records wrap


class FakeKernel:
    """Writes records as the program would."""

    def __init__(self) -> None:
        self.descriptor = os.memfd_create("ring")
        os.ftruncate(self.descriptor, 2 * mmap.PAGESIZE + 2 * SIZE)
        self.memory = np.frombuffer(mmap.mmap(self.descriptor, 0), np.uint8)
        self.consumer = self.memory[:8].view(np.uint64)
        self.producer = self.memory[mmap.PAGESIZE :][:8].view(np.uint64)
        self.data = self.memory[2 * mmap.PAGESIZE :]

    def put(self, sector: int, flag: int = 0, length: int = 0) -> bool:
        at = int(self.producer[0])
        if at + RING_RECORD_BYTES - int(self.consumer[0]) > SIZE:
            return False
        record = np.zeros(1, RING_RECORD)
        record["header"] = RING_RECORD_BYTES - 8 | flag
        record["sector"] = sector
        record["length"] = length
        for half in (0, SIZE):  # the same memory twice
            places = (at + np.arange(RING_RECORD_BYTES)) % SIZE + half
            self.data[places] = record.view(np.uint8)
        self.producer[0] = at + RING_RECORD_BYTES
        return True

    def commit(self, at: int) -> None:
        for half in (0, SIZE):
            self.data[at % SIZE + half : at % SIZE + half + 4].view(np.uint32)[0] &= np.uint32(
                ~RING_HEADER_BUSY & (2**32 - 1)
            )


@pytest.fixture
def kernel():
    fake = FakeKernel()
    yield fake
    os.close(fake.descriptor)


def sectors(batch) -> list[int]:
    return batch.records["sector"].tolist()


def test_records_come_in_order_through_many_wraps(kernel):
    ring = Ring(kernel.descriptor, SIZE)
    written = read = 0
    for _ in range(40):
        while kernel.put(written):
            written += 1
        while (batch := ring.drain(6 * RING_RECORD_BYTES)) is not None:
            assert sectors(batch) == list(range(read, read + len(batch.records)))
            read += len(batch.records)
            batch.release()
    assert read == written > 500
    assert ring.used() == 0


def test_records_are_viewed_not_copied_and_space_comes_back_on_release(kernel):
    ring = Ring(kernel.descriptor, SIZE)
    while kernel.put(1):
        pass
    batch = ring.drain(SIZE)
    kernel.data[8:16].view(np.uint64)[0] = 99
    assert batch.records["sector"][0] == 99
    assert not kernel.put(2)
    batch.release()
    assert kernel.put(2)
    assert len(batch.records) == 0


def test_a_record_being_written_holds_back_what_follows(kernel):
    ring = Ring(kernel.descriptor, SIZE)
    kernel.put(1)
    kernel.put(2, RING_HEADER_BUSY)
    kernel.put(3)
    assert sectors(ring.drain(SIZE)) == [1]
    assert ring.drain(SIZE) is None
    kernel.commit(RING_RECORD_BYTES)
    assert sectors(ring.drain(SIZE)) == [2, 3]


def test_a_record_completed_while_it_is_looked_at_is_not_taken_for_one_taken_back(kernel, monkeypatch):
    """The kernel may clear a header's busy bit between any two instructions of ours."""
    ring = Ring(kernel.descriptor, SIZE)
    kernel.put(1, RING_HEADER_BUSY)
    kernel.put(2)
    find = np.flatnonzero

    def find_then_complete(flags):
        found = find(flags)
        kernel.commit(0)
        return found

    monkeypatch.setattr(np, "flatnonzero", find_then_complete)
    batches = [ring.drain(SIZE) for _ in range(3)]
    assert [sectors(batch) for batch in batches if batch is not None] == [[1, 2]]


def test_what_was_delivered_is_counted_by_disk(kernel):
    ring = Ring(kernel.descriptor, SIZE)
    assert ring.delivered(0) == 0
    for length in (512, 4096):
        kernel.put(1, length=length)
    assert ring.delivered(0) is None
    ring.drain(SIZE)
    assert (ring.delivered(0), ring.delivered(1)) == (4608, 0)


def test_records_taken_back_are_passed_over(kernel):
    ring = Ring(kernel.descriptor, SIZE)
    for sector, flag in ((1, RING_HEADER_DISCARDED), (2, 0), (3, RING_HEADER_DISCARDED), (4, 0)):
        kernel.put(sector, flag)
    first, second = ring.drain(SIZE), ring.drain(SIZE)
    assert (sectors(first), sectors(second)) == ([2], [4])
    first.release()
    second.release()
    assert ring.used() == 0


def test_until_and_size_bound_a_batch(kernel):
    ring = Ring(kernel.descriptor, SIZE)
    for sector in range(10):
        kernel.put(sector)
    assert sectors(ring.drain(1)) == [0]
    assert sectors(ring.drain(3 * RING_RECORD_BYTES)) == [1, 2, 3]
    assert sectors(ring.drain(SIZE, until=6 * RING_RECORD_BYTES)) == [4, 5]
    assert ring.drain(SIZE, until=6 * RING_RECORD_BYTES) is None
    assert ring.drained() == 6 * RING_RECORD_BYTES
    assert ring.position() == 10 * RING_RECORD_BYTES
