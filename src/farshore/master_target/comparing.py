"""The first pass over a surviving disk: hash each chunk and compare it with its base in the vault; fetch only what
differs. Overlays and journals are applied afterwards (farshore.vault.reading.changes), once each of these chunks holds
its base.

The disk is read in its order, a few steps at once; memory is limited by the steps in progress.
"""

from __future__ import annotations

import mmap
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from farshore.master_target.record import Numbers
from farshore.master_target.target_disk import TargetDisk
from farshore.model.identifiers import CHUNK
from farshore.vault.reading.changes import Target
from farshore.vault.reading.parent_disk import chunk_hash
from farshore.vault.reading.view import Bases, DiskView

STEP_CHUNKS = 64
_WORKERS = 3
Span = tuple[int, int]
"""The first chunk and the number of chunks."""


@dataclass(frozen=True)
class Compared:
    """One step: the byte up to which it goes; the bytes read from the disk and written to it; the chunks that overlays
    or journals change, and the epochs whose bases they hold now."""

    end: int
    read: int
    written: int
    touched: Numbers
    epochs: Numbers


def spans(size: int, done: int) -> Iterator[Span]:
    """Yield the steps of a disk of ``size`` bytes from ``done`` on."""
    chunks = -(-size // CHUNK)
    for first in range(done // CHUNK, chunks, STEP_CHUNKS):
        yield first, min(STEP_CHUNKS, chunks - first)


def spans_of(chunks: Numbers) -> Iterator[Span]:
    """Yield steps over chosen chunks, which are sorted."""
    edges = np.flatnonzero(np.diff(chunks) != 1) + 1
    for run in np.split(chunks, edges) if len(chunks) else []:
        for first in range(int(run[0]), int(run[-1]) + 1, STEP_CHUNKS):
            yield first, min(STEP_CHUNKS, int(run[-1]) + 1 - first)


def compare(
    view: DiskView, hash_key: bytes, disk: TargetDisk, target: Target, steps: Iterable[Span]
) -> Iterator[Compared]:
    """Write the bases of the chunks of ``steps``. Yield each step, in order, as soon as it is written (not durable).
    Raises Damaged, the store's errors and the disk's."""
    own = threading.local()

    def act(step: Span) -> Compared:
        first, count = step
        length = min(count * CHUNK, disk.size - first * CHUNK)
        if not hasattr(own, "buffer"):
            own.buffer = memoryview(mmap.mmap(-1, STEP_CHUNKS * CHUNK))
        data = own.buffer[:length]
        disk.read_into(first * CHUNK, data)
        bases = view.bases(first, count)
        written = _write_differing(view, bases, hash_key, data, first, target)
        if written:
            disk.begin_writeback(first * CHUNK, length)
        touched = np.flatnonzero(bases.touched)
        return Compared(first * CHUNK + length, length, written, first + touched, bases.epochs[touched])

    with ThreadPoolExecutor(_WORKERS, thread_name_prefix="compare") as pool:
        waiting: deque[Future[Compared]] = deque()
        try:
            for step in steps:
                waiting.append(pool.submit(act, step))
                if len(waiting) > 2 * _WORKERS:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for one in waiting:
                one.cancel()


def _write_differing(
    view: DiskView, bases: Bases, hash_key: bytes, data: memoryview, first: int, target: Target
) -> int:
    """Write the bases of those chunks in ``data`` that differ; return the bytes written."""
    pieces = [data[start : start + CHUNK] for start in range(0, len(data), CHUNK)]
    known, hidden, epochs = bases.known.tolist(), bases.hidden.tolist(), bases.epochs.tolist()
    differs = [
        not hidden[place] and not (known[place] and chunk_hash(hash_key, piece) == bases.hashes[place].tobytes())
        for place, piece in enumerate(pieces)
    ]
    zero = (bases.known & ~bases.hashes.any(axis=1)).tolist()
    written = place = 0
    while place < len(pieces):
        if not differs[place]:
            place += 1
            continue
        begin = place
        like = zero[place], epochs[place]
        while place < len(pieces) and differs[place] and (zero[place], epochs[place]) == like:
            place += 1
        start, end = begin * CHUNK, min(place * CHUNK, len(data))
        offset = first * CHUNK + start
        if like[0]:
            written += target.zero(offset, offset + end - start)
        else:
            view.below(like[1]).read_into(offset, data[start:end])
            written += target.write(offset, data[start:end])
    return written
