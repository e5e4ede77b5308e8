"""A limited cache of chunks over a source: small reads cost a copy, zeroes cost nothing, streams are read ahead.

A miss reads the whole 64 KiB chunk of a read, because the vault would open as much for 4 KiB of it. Runs that are zero
according to the source's indexes are noted per region, so they are answered without asking again. If a read continues
where the last one ended, the next chunks are fetched in the background. Large reads bypass the cache: data that is
copied out at once is not read twice.

Memory: ``limit`` bytes of chunks, and one byte for each chunk of the regions that were read.
"""

from __future__ import annotations

import contextlib
import threading
from collections import OrderedDict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from farshore.model.errors import FarshoreError
from farshore.model.identifiers import CHUNK
from farshore.model.ports import BlockSource, Extent, WholeChunks

_REGION_CHUNKS = 1024
_DATA, _ZERO = 0, 1
_LARGE = 4 * CHUNK
_AHEAD_CHUNKS = 8
_AHEAD_THREADS = 2
_STREAM_GAP = 3


class ReadCache:
    """``source`` with a cache of ``limit`` bytes. Safe to call from several threads."""

    def __init__(self, source: BlockSource, limit: int = 128 << 20) -> None:
        self._source = source
        self._chunks = source if isinstance(source, WholeChunks) else None
        self._size = source.size
        self._limit = max(1, limit // CHUNK)
        # Chunks by number, the last used at the end. Single operations are atomic under the interpreter's lock.
        self._held: OrderedDict[int, memoryview] = OrderedDict()
        self._zeroes: dict[int, bytes] = {}
        self._loading: dict[int, threading.Event] = {}
        self._lock = threading.Lock()
        self._stream_end = -_STREAM_GAP
        self._threads = ThreadPoolExecutor(_AHEAD_THREADS, thread_name_prefix="read-ahead")
        self._closed = False

    @property
    def size(self) -> int:
        return self._size

    def resident(self, offset: int, length: int) -> bool:
        """Return whether the range needs nothing from the source."""
        first, last = offset // CHUNK, (offset + length - 1) // CHUNK
        if first == last:
            return first in self._held or self._known_zero(first)
        return all(chunk in self._held or self._known_zero(chunk) for chunk in range(first, last + 1))

    def read_into(self, offset: int, buffer: memoryview) -> None:
        length = len(buffer)
        if length >= _LARGE and not self.resident(offset, length):
            self._source.read_into(offset, buffer)
            return
        done = 0
        while done < length:
            chunk, within = divmod(offset + done, CHUNK)
            count = min(CHUNK - within, length - done)
            target = buffer[done : done + count]
            data = self._held.get(chunk)
            if data is None:
                data = self._fetch(chunk)
            else:
                # Another thread may have dropped it meanwhile; our reference is still valid.
                with contextlib.suppress(KeyError):
                    self._held.move_to_end(chunk)
            if data is None:
                target[:] = _NOTHING[:count]
            else:
                target[:] = data[within : within + count]
            done += count

    def extents(self, offset: int, length: int) -> Iterator[Extent]:
        return self._source.extents(offset, length)

    def close(self) -> None:
        self._closed = True
        self._threads.shutdown(wait=True, cancel_futures=True)
        self._source.close()
        self._held.clear()

    def _known_zero(self, chunk: int) -> bool:
        region, place = divmod(chunk, _REGION_CHUNKS)
        known = self._zeroes.get(region)
        return known is not None and known[place] == _ZERO

    def _fetch(self, chunk: int) -> memoryview | None:
        """Return the chunk, from the source if necessary, or None if it is zero."""
        region, place = divmod(chunk, _REGION_CHUNKS)
        known = self._zeroes.get(region)
        if known is None:
            known = self._zeroes[region] = self._survey(region)
        if known[place] == _ZERO:
            return None
        self._read_ahead(chunk)
        while True:
            with self._lock:
                data = self._held.get(chunk)
                if data is not None:
                    return data
                waiting = self._loading.get(chunk)
                if waiting is None:
                    self._loading[chunk] = threading.Event()
                    break
            # Another thread fetches it; if that fails, this one tries itself.
            waiting.wait()
        return self._load(chunk)

    def _load(self, chunk: int) -> memoryview:
        start = chunk * CHUNK
        length = min(CHUNK, self._size - start)
        try:
            whole = self._chunks.whole_chunk(chunk) if self._chunks is not None else None
            if whole is not None and len(whole) == length:
                data = memoryview(whole)
            else:
                data = memoryview(bytearray(length))
                self._source.read_into(start, data)
            with self._lock:
                self._held[chunk] = data
                while len(self._held) > self._limit:
                    self._held.popitem(last=False)
        finally:
            with self._lock:
                loaded = self._loading.pop(chunk)
            loaded.set()
        return data

    def _survey(self, region: int) -> bytes:
        """Return one byte for each chunk of the region: whether the source says that all of it is zero."""
        start = region * _REGION_CHUNKS * CHUNK
        end = min(start + _REGION_CHUNKS * CHUNK, self._size)
        marks = bytearray(_REGION_CHUNKS)
        for extent in self._source.extents(start, end - start):
            if extent.zero:
                stop = extent.offset + extent.length
                first = -(-(extent.offset - start) // CHUNK)
                last = (stop - start) // CHUNK if stop < self._size else -(-(stop - start) // CHUNK)
                marks[first:last] = bytes((_ZERO,)) * max(0, last - first)
        return bytes(marks)

    def _read_ahead(self, chunk: int) -> None:
        """Fetch the next chunks, if this miss continues from the last one or from chunks fetched for it."""
        follows = 0 <= chunk - self._stream_end < _STREAM_GAP
        self._stream_end = chunk + 1
        if not follows or self._closed:
            return
        last = min(chunk + _AHEAD_CHUNKS, (self._size - 1) // CHUNK)
        for ahead in range(chunk + 1, last + 1):
            with self._lock:
                if ahead in self._held or ahead in self._loading or self._known_zero(ahead):
                    continue
                self._loading[ahead] = threading.Event()
            self._stream_end = ahead + 1
            self._threads.submit(self._load_quietly, ahead)

    def _load_quietly(self, chunk: int) -> None:
        try:
            self._load(chunk)
        except (FarshoreError, OSError):
            # A reader that really needs the chunk gets the error itself.
            return


_NOTHING = memoryview(bytes(CHUNK))
