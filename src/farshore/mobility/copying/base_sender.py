"""Copy the base of an epoch by hash: every chunk of every disk is compared, and sent if the vault lacks it.

Used for initial replication and resync, and, for some chunks, for disks that were added or grew. It runs while the
capture does, and is below the journal, so it may read a block at any moment. One thread finds zeroes and hashes, a few
read ahead of it, and a few requests are in progress at the same time. Everything is repeated until it succeeds, so an
outage only makes the copy longer.
"""

from __future__ import annotations

import ctypes
import queue
import threading
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any, Callable, Deque, Iterator, List, Mapping, NamedTuple, Optional, Protocol, Sequence, Set, Tuple

import numpy as np
import numpy.typing as npt
from blake3 import blake3

from farshore.formats.batch import Buffer
from farshore.formats.chunk_exchange import CHUNK_ROW, Comparison, Verdict
from farshore.mobility.copying.disk_reader import AlignedBuffer, CopiedDisk, DiskReader
from farshore.mobility.copying.progress import CopyProgress
from farshore.mobility.retrying import Stopped, until_done
from farshore.mobility.stream.throttle import Bandwidth, Courtesy
from farshore.model.identifiers import CHUNK, DiskNumber

WINDOW_BYTES = 8 << 20
REQUESTS = 3
"""Windows that are compared and sent at the same time."""
READERS = 2
"""Windows that are read at the same time: a disk delivers twice as much as to a reader that waits for each."""
ZERO_RUN_CHUNKS = 4096
"""Windows of only zeroes are reported together, up to this many chunks: 256 MiB."""

# The C library recognises a chunk of zeroes several times as fast as numpy, above all on emulated processors.
_compare_memory = ctypes.CDLL(None).memcmp
_compare_memory.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)
_ZEROES = np.zeros(CHUNK, np.uint8)
_ZEROES_ADDRESS = _ZEROES.ctypes.data


class ChunkReceiver(Protocol):
    """The part of client.DataPlane that the copy uses."""

    def compare(self, comparison: Comparison) -> npt.NDArray[np.uint8]:
        """Return one Verdict for each hash."""
        ...

    def send_chunks(self, disk: DiskNumber, rows: npt.NDArray[Any], parts: Sequence[Buffer]) -> None:
        """Send chunks; durable when it returns."""
        ...


class _Window(NamedTuple):
    disk: DiskNumber
    first_chunk: int
    hashes: npt.NDArray[np.uint8]
    size: int
    """Bytes of the disk that it covers."""
    data: memoryview
    """The same bytes, in ``buffer``; empty if they are all zeroes."""
    buffer: Optional[AlignedBuffer]


class _Read(NamedTuple):
    offset: int
    data: memoryview
    buffer: AlignedBuffer
    under_way: Future[None]


class BaseSender:
    """One copy of some disks. ``hash_key``: 32 bytes, from the epoch's grant. ``runs``: by disk the runs of chunks,
    (first, count), that are copied; None: all of every disk. ``changed`` is called with disk, first chunk and end of
    what the copy did not hold before."""

    def __init__(
        self,
        disks: Sequence[CopiedDisk],
        receiver: ChunkReceiver,
        hash_key: bytes,
        *,
        progress: CopyProgress,
        bandwidth: Bandwidth,
        courtesy: Courtesy,
        runs: Optional[Mapping[DiskNumber, Sequence[Tuple[int, int]]]] = None,
        changed: Callable[[DiskNumber, int, int], None] = lambda *_: None,
    ) -> None:
        self._changed = changed
        self._disks = disks
        self._runs = {disk.number: [(0, -(-disk.size // CHUNK))] for disk in disks} if runs is None else runs
        self._receiver = receiver
        self._key = hash_key
        self._progress = progress
        self._bandwidth = bandwidth
        self._courtesy = courtesy

    def run(self, stop: threading.Event) -> None:
        """Copy everything. Raises Stopped, Damaged (a disk cannot be read), Fenced and other refusals."""
        free: queue.SimpleQueue[AlignedBuffer] = queue.SimpleQueue()
        for _ in range(REQUESTS + READERS + 1):
            free.put(AlignedBuffer(WINDOW_BYTES))
        giving_up = threading.Event()
        self._courtesy.begin()
        with ThreadPoolExecutor(REQUESTS, "copy") as requests:
            under_way: Set[Future[None]] = set()
            try:
                for window in _joined_zeroes(self._windows(free, stop), free):
                    under_way.add(requests.submit(self._ship, window, free, _Either(stop, giving_up)))
                    # Waiting windows are limited by the buffers, so that the next is read while all requests are busy.
                    under_way = _finish(under_way, 0)
                _finish(under_way, None)
            finally:
                giving_up.set()

    def _windows(self, free: queue.SimpleQueue[AlignedBuffer], stop: threading.Event) -> Iterator[_Window]:
        for disk in self._disks:
            runs = self._runs.get(disk.number, ())
            if not runs:
                continue
            with DiskReader(disk) as reader, ThreadPoolExecutor(READERS, "read") as readers:
                ahead: Deque[_Read] = deque()
                for offset, length in _pieces(runs, disk.size):
                    if len(ahead) == READERS:
                        yield self._hashed(disk.number, ahead.popleft())
                    if stop.wait(self._courtesy.pause()):
                        raise Stopped
                    buffer = free.get()
                    data = buffer.view[:length]
                    ahead.append(_Read(offset, data, buffer, readers.submit(self._read, reader, offset, data)))
                while ahead:
                    yield self._hashed(disk.number, ahead.popleft())

    def _read(self, reader: DiskReader, offset: int, data: memoryview) -> None:
        with self._courtesy.copying():
            reader.read(offset, data)

    def _hashed(self, disk: DiskNumber, read: _Read) -> _Window:
        read.under_way.result()
        with self._courtesy.copying():
            hashes = chunk_hashes(read.data, self._key)
        return _Window(disk, read.offset // CHUNK, hashes, len(read.data), read.data, read.buffer)

    def _ship(self, window: _Window, free: queue.SimpleQueue[AlignedBuffer], stop: threading.Event) -> None:
        try:
            with self._courtesy.copying():
                comparison = Comparison(window.disk, window.first_chunk, window.hashes)
                verdicts = until_done(lambda: self._receiver.compare(comparison), stop, "The copy")
                wanted = np.flatnonzero(verdicts == Verdict.SEND)
                if len(wanted):
                    self._send(window, wanted, stop)
                self._note_changed(window, np.flatnonzero(verdicts != Verdict.HAVE))
                self._progress.add(done=window.size)
        finally:
            if window.buffer is not None:
                free.put(window.buffer)

    def _send(self, window: _Window, wanted: npt.NDArray[np.intp], stop: threading.Event) -> None:
        parts: List[Buffer] = []
        rows = np.zeros(len(wanted), CHUNK_ROW)
        rows["chunk"] = wanted + window.first_chunk
        rows["hash"] = np.ascontiguousarray(window.hashes[wanted]).view("V32").reshape(-1)
        starts = wanted * CHUNK
        ends = np.minimum(starts + CHUNK, len(window.data))
        rows["length"] = ends - starts
        for first, last in _runs(wanted):
            parts.append(window.data[starts[first] : ends[last]])
        size = int(rows["length"].sum())
        if stop.wait(self._bandwidth.wait_for(size)):
            raise Stopped
        until_done(lambda: self._receiver.send_chunks(window.disk, rows, parts), stop, "The copy")
        self._progress.add(sent=size)

    def _note_changed(self, window: _Window, places: npt.NDArray[np.intp]) -> None:
        for first, last in _runs(places) if len(places) else ():
            start, end = int(places[first]), int(places[last]) + 1
            self._changed(window.disk, window.first_chunk + start, window.first_chunk + end)


def copied_bytes(runs: Sequence[Tuple[int, int]], size: int) -> int:
    """Return the number of bytes of these runs of chunks on a disk of ``size`` bytes."""
    return sum(length for _, length in _pieces(runs, size))


def _pieces(runs: Sequence[Tuple[int, int]], size: int) -> Iterator[Tuple[int, int]]:
    """Yield (offset, length) in bytes of each window."""
    for first, count in runs:
        end = min((first + count) * CHUNK, size)
        for offset in range(first * CHUNK, end, WINDOW_BYTES):
            yield offset, min(WINDOW_BYTES, end - offset)


def chunk_hashes(data: memoryview, key: bytes) -> npt.NDArray[np.uint8]:
    """Return shape (chunks, 32): the keyed hash of each chunk of ``data``; all zero for a chunk that is."""
    found = np.zeros((-(-len(data) // CHUNK), 32), np.uint8)
    address = np.frombuffer(data, np.uint8).ctypes.data
    for index in range(len(found)):
        chunk = data[index * CHUNK : (index + 1) * CHUNK]
        if _compare_memory(address + index * CHUNK, _ZEROES_ADDRESS, len(chunk)):
            found[index] = np.frombuffer(blake3(chunk, key=key).digest(), np.uint8)
    return found


def _runs(numbers: npt.NDArray[np.intp]) -> Iterator[List[int]]:
    """Yield (first, last) index of each run of neighbours."""
    breaks = np.flatnonzero(np.diff(numbers) != 1) + 1
    for run in np.split(np.arange(len(numbers)), breaks):
        yield [int(run[0]), int(run[-1])]


def _joined_zeroes(windows: Iterator[_Window], free: queue.SimpleQueue[AlignedBuffer]) -> Iterator[_Window]:
    """Yield the windows, with neighbours of only zeroes joined; their buffers are free at once."""
    zeroes: Optional[_Window] = None
    for window in windows:
        empty = not window.hashes.any()
        if empty and window.buffer is not None:
            free.put(window.buffer)
            window = window._replace(data=memoryview(b""), buffer=None)
        if zeroes is not None:
            if empty and zeroes.disk == window.disk and len(zeroes.hashes) < ZERO_RUN_CHUNKS:
                both = np.concatenate((zeroes.hashes, window.hashes))
                zeroes = zeroes._replace(hashes=both, size=zeroes.size + window.size)
                continue
            yield zeroes
        zeroes = window if empty else None
        if not empty:
            yield window
    if zeroes is not None:
        yield zeroes


def _finish(under_way: Set[Future[None]], timeout: Optional[float]) -> Set[Future[None]]:
    """Raise the errors of requests that have ended; return the others. ``timeout`` None: wait for all."""
    done, left = wait(under_way, timeout=timeout)
    for future in done:
        future.result()
    return left


class _Either(threading.Event):
    """Set when either of two events is; waits are short enough to notice both."""

    def __init__(self, *events: threading.Event) -> None:
        super().__init__()
        self._events = events

    def is_set(self) -> bool:
        """Return whether any is set."""
        return any(event.is_set() for event in self._events)

    def wait(self, timeout: Any = None) -> bool:
        """Wait for the first event as Event.wait does, and check the others before and after."""
        return self.is_set() or self._events[0].wait(timeout) or self.is_set()
