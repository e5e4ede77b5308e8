"""Writing a disk out of the vault to a raw file or block device, without anything of ours running."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt

from farshore.model.identifiers import BLOCK, CHUNK
from farshore.model.ports import BlockSource
from farshore.vault.reading.blocks import simple_entries
from farshore.vault.reading.levels import EntryLevel
from farshore.vault.reading.raw_target import RawTarget, raw_target
from farshore.vault.reading.view import DiskView

STEP = 4 << 20
_WORKERS = 3
Progress = Callable[[int, int], None]
"""Called with bytes done and bytes in all."""


def restore_to_raw(source: BlockSource, path: Path, progress: Progress | None = None, *, replace: bool = False) -> int:
    """Write ``source`` to ``path`` and sync it; return the bytes of data written.

    A file is sparse where the disk is known to be zero, and has its name only when it is whole. A block device is
    written as a whole, zeroes too. Raises TooSmall where a device is too small, Refused where a file exists and may not
    be replaced, what ``whole_file`` raises, and the source's errors.
    """
    with raw_target(path, source.size, replace=replace) as target:
        split = source.journal_over_base() if isinstance(source, DiskView) else None
        if split is None:
            return _copy_in_disk_order(source, source, target, progress)
        journal, base = split
        written = _copy_in_disk_order(source, base, target, progress)
        return written + _copy_journal(source, journal, target)


def _copy_in_disk_order(whole: BlockSource, base: BlockSource, target: RawTarget, progress: Progress | None) -> int:
    """Steps of the disk, a few at once: reading, opening and writing release the interpreter in turn. In a file, what
    is zero in the ``whole`` is left out, whatever it is in the ``base``, which is copied."""
    only = base.only_map() if target.sparse and isinstance(base, DiskView) else None
    own = threading.local()

    def ranges(start: int) -> Iterator[tuple[int, int]]:
        length = min(STEP, whole.size - start)
        if target.sparse and whole is not base:
            return _not_zero(whole, start, length)
        return iter([(start, start + length)])

    def copy_chunks(start: int) -> int:
        assert only is not None
        assert isinstance(base, DiskView)
        written = 0
        for begin, end in ranges(start):
            with base.located(begin, end - begin):
                runs = list(only.stored_runs(begin // CHUNK, -(-end // CHUNK)))
            written += sum(target.write(offset, *pieces) for offset, pieces in runs)
        return written

    def copy(start: int) -> int:
        if not hasattr(own, "buffer"):
            own.buffer = memoryview(bytearray(STEP))
        written = 0
        for begin, end in ranges(start):
            for extent in base.extents(begin, end - begin):
                if not (extent.zero and target.sparse):
                    piece = own.buffer[: extent.length]
                    base.read_into(extent.offset, piece)
                    written += target.write(extent.offset, piece)
        return written

    total = 0
    copy_step = copy if only is None else copy_chunks

    def step(start: int) -> int:
        written = copy_step(start)
        if written:
            target.begin_writeback(start, min(STEP, whole.size - start))
        return written

    with ThreadPoolExecutor(_WORKERS, thread_name_prefix="restore") as pool:
        for start, written in _in_order(pool, step, _steps(whole) if target.sparse else range(0, whole.size, STEP)):
            total += written
            if progress is not None:
                progress(min(start + STEP, whole.size), whole.size)
    if progress is not None:
        progress(whole.size, whole.size)
    return total


def _steps(source: BlockSource) -> Iterator[int]:
    """Where the steps start that are not known to be zero: an index is asked once for many of them."""
    done = 0
    for extent in source.extents(0, source.size):
        if not extent.zero:
            end = extent.offset + extent.length
            starts = range(max(done, extent.offset // STEP * STEP), end, STEP)
            yield from starts
            done = max(done, -(-end // STEP) * STEP)


def _in_order(pool: ThreadPoolExecutor, work: Callable[[int], int], starts: Iterable[int]) -> Iterator[tuple[int, int]]:
    """Each start with what ``work`` answers for it. No more is begun than the workers need, so that memory does not
    grow with the disk, and little is left to end after an error."""
    waiting: deque[tuple[int, Future[int]]] = deque()
    for start in starts:
        waiting.append((start, pool.submit(work, start)))
        if len(waiting) > 2 * _WORKERS:
            first, done = waiting.popleft()
            yield first, done.result()
    for first, done in waiting:
        yield first, done.result()


def _not_zero(source: BlockSource, start: int, length: int) -> Iterator[tuple[int, int]]:
    """The range less the whole chunks in it that are known to be zero, as ``(begin, end)``."""
    end = start + length
    begin = start
    for extent in source.extents(start, length):
        last = extent.offset + extent.length
        low, high = -(-extent.offset // CHUNK) * CHUNK, last if last == end else last // CHUNK * CHUNK
        if extent.zero and low < high:
            if begin < low:
                yield begin, low
            begin = high
    if begin < end:
        yield begin, end


def _copy_journal(source: BlockSource, journal: list[EntryLevel], target: RawTarget) -> int:
    """What the journal changed, oldest level first, each in the order in which it is stored: a random write costs a
    read of 4 KiB and not of its whole pack. Blocks with more to them than one write are read from the whole view."""
    written = 0
    special: list[npt.NDArray[np.int64]] = []
    for level in reversed(journal):
        index = level.whole()
        special.append(index.blocks[~simple_entries(index.blocks, index.entries)])
        for start, end in zip(index.zero_starts.tolist(), index.zero_ends.tolist(), strict=True):
            written += target.zero(start * BLOCK, min(end * BLOCK, source.size))
        for block, data in level.filler.in_stored_order(index):
            written += target.write(block * BLOCK, data.data[: source.size - block * BLOCK])
    for block in np.unique(np.concatenate(special)).tolist() if special else []:
        piece = memoryview(bytearray(min(BLOCK, source.size - block * BLOCK)))
        source.read_into(block * BLOCK, piece)
        if np.frombuffer(piece, np.uint8).any():
            written += target.write(block * BLOCK, piece)
        else:
            written += target.zero(block * BLOCK, block * BLOCK + len(piece))
    return written
