"""The capture ring as numpy arrays: a view of the kernel's memory, without copies, without Python code per record.

The kernel maps the ring's data twice in a row, so a record that wraps is contiguous. Of the second mapping we use no
more than that, because each page would count twice in our resident memory. All records have one size
(layout.RING_RECORD). Positions are the ring's own byte counters: they only grow.
"""

from __future__ import annotations

import ctypes
import mmap
import threading
from typing import Any, Dict, Optional

import numpy as np
import numpy.typing as npt

from farshore.mobility.capture.layout import (
    RING_HEADER_BUSY,
    RING_HEADER_DISCARDED,
    RING_RECORD,
    RING_RECORD_BYTES,
)

_PAGE = mmap.PAGESIZE
_WRAP = -(-RING_RECORD_BYTES // _PAGE) * _PAGE


class RecordBatch:
    """Records in ring order. ``records`` is valid until ``release``: it views the ring itself."""

    def __init__(self, ring: Ring, records: npt.NDArray[Any], start: int) -> None:
        self.records = records
        self.start = start
        """Ring position of the first record."""
        self.end = start + records.nbytes
        """Ring position after the last record."""
        self._ring = ring

    def release(self) -> None:
        """Return the space to the kernel. Batches are released in the order in which they were drained."""
        self.records = self.records[:0]
        self._ring.release(self.end)


class Ring:
    """One consumer's view of a BPF ring buffer map; ``size`` is its data size in bytes, a power of two."""

    def __init__(self, descriptor: int, size: int) -> None:
        self.size = size
        self._consumer_page = mmap.mmap(descriptor, _PAGE)
        self._consumer = ctypes.c_uint64.from_buffer(self._consumer_page)
        length = _PAGE + size + _WRAP
        self._shared = mmap.mmap(descriptor, length, flags=mmap.MAP_SHARED, prot=mmap.PROT_READ, offset=_PAGE)
        self._producer: npt.NDArray[np.uint64] = np.frombuffer(self._shared, np.uint64, 1)
        self._data: npt.NDArray[np.uint8] = np.frombuffer(self._shared, np.uint8, size + _WRAP, _PAGE)
        self._lock = threading.Lock()
        self._delivered: Dict[int, int] = {}
        self._read = self._consumer.value  # everything before it has been drained, though perhaps not released

    def position(self) -> int:
        """Return the position up to which the kernel has written: records reserved by now end here or before."""
        return int(self._producer[0])

    def drained(self) -> int:
        """Return the position up to which ``drain`` has read."""
        return self._read

    def used(self) -> int:
        """Return the number of bytes that are not released yet."""
        return self.position() - self._consumer.value

    def drain(self, max_bytes: int, until: Optional[int] = None) -> Optional[RecordBatch]:
        """Return the next records, at most ``max_bytes`` of ring space (but at least one) and none from ``until`` on.

        None if there is none ready now: the ring is empty, or its next record is still being written.
        """
        with self._lock:
            while True:
                end = self.position() if until is None else min(until, self.position())
                count = (min(end - self._read, max(max_bytes, RING_RECORD_BYTES))) // RING_RECORD_BYTES
                if count <= 0:
                    return None
                offset = self._read & (self.size - 1)
                count = min(count, -(-(self.size - offset) // RING_RECORD_BYTES))  # up to the one that wraps
                records = self._data[offset : offset + count * RING_RECORD_BYTES].view(RING_RECORD)
                # Read once, into our own memory: the kernel may complete a record at any moment, and one that was being
                # written must not look like a discarded one at the next look.
                flags = records["header"] & np.uint32(RING_HEADER_BUSY | RING_HEADER_DISCARDED)
                odd = np.flatnonzero(flags)
                if not len(odd):
                    return self._batch(records)
                if odd[0]:
                    return self._batch(records[: odd[0]])
                if int(flags[0]) & RING_HEADER_BUSY:
                    return None
                # The program discarded this record: its page could not be read. It is ignored.
                if self._consumer.value == self._read:
                    self._consumer.value += RING_RECORD_BYTES
                self._read += RING_RECORD_BYTES

    def _batch(self, records: npt.NDArray[Any]) -> RecordBatch:
        batch = RecordBatch(self, records, self._read)
        # In one pass, because each record is a cache line that is not in the cache yet. Doubles: exact below 2^53
        # bytes.
        lengths = np.bincount(records["disk"], weights=records["length"])
        for disk in np.flatnonzero(lengths).tolist():
            self._delivered[disk] = self._delivered.get(disk, 0) + int(lengths[disk])
        self._read = batch.end
        return batch

    def delivered(self, disk: int) -> Optional[int]:
        """Return the number of bytes of a disk's records drained so far; None while there are records that have not
        been drained."""
        with self._lock:
            return self._delivered.get(disk, 0) if self._read == self.position() else None

    def release(self, end: int) -> None:
        """Let the kernel overwrite everything before position ``end``."""
        self._consumer.value = end
