"""Writing a disk out of the vault to a raw file or block device, without anything of ours running."""

from __future__ import annotations

import fcntl
import os
import stat
import struct
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt

from farshore.formats.batch import Buffer
from farshore.model.errors import NoSpace, Refused, TooSmall
from farshore.model.identifiers import BLOCK, CHUNK
from farshore.model.ports import BlockSource
from farshore.vault.blocks import simple_entries
from farshore.vault.levels import EntryLevel
from farshore.vault.view import DiskView

STEP = 4 << 20
_WORKERS = 3
_BLKGETSIZE64 = 0x80081272
Progress = Callable[[int, int], None]
"""Called with bytes done and bytes in all."""


def restore_to_raw(source: BlockSource, path: Path, progress: Progress | None = None, *, replace: bool = False) -> int:
    """Write ``source`` to ``path`` and sync it; answer the bytes of data written.

    A new file is sparse where the disk is zero. A block device is written as a whole, zeroes too. Raises TooSmall
    where a device is too small, Refused where a file exists and may not be replaced, NoSpace, and the source's errors.
    """
    is_device, whole = is_block_device(path), False
    flags = os.O_RDWR | os.O_CLOEXEC
    # On a device O_EXCL refuses one that is mounted or otherwise in use.
    flags |= os.O_EXCL if is_device else os.O_CREAT | (os.O_TRUNC if replace else os.O_EXCL)
    try:
        handle = os.open(path, flags, 0o600)
    except FileExistsError as cause:
        raise Refused(f"{path} exists.", remedy="Choose another name, or say --replace.") from cause
    except OSError as cause:
        raise Refused(f"{path} cannot be opened: {cause.strerror}.", remedy="Unmount it, or give another.") from cause
    try:
        if is_device:
            room = device_bytes(handle)
            if room < source.size:
                raise TooSmall(
                    f"{path} has {room} bytes, the disk has {source.size}.",
                    remedy="Use a device of at least that size.",
                )
        else:
            os.ftruncate(handle, source.size)
        written = _copy(source, handle, sparse=not is_device, progress=progress)
        whole = True
        return written
    except OSError as cause:
        raise NoSpace(f"{path} cannot be written: {cause.strerror}.", remedy="Free space and repeat.") from cause
    finally:
        os.close(handle)
        if not whole and not is_device:
            path.unlink(missing_ok=True)  # half a disk must not pass for a whole one


def is_block_device(path: Path) -> bool:
    """Whether ``path`` is a block device."""
    return path.exists() and stat.S_ISBLK(path.stat().st_mode)


def device_bytes(handle: int) -> int:
    """Size of an open block device."""
    return int(struct.unpack("Q", fcntl.ioctl(handle, _BLKGETSIZE64, bytes(8)))[0])


def _copy(source: BlockSource, handle: int, *, sparse: bool, progress: Progress | None) -> int:
    split = source.journal_over_base() if isinstance(source, DiskView) else None
    if split is None:
        written = _copy_in_disk_order(source, handle, sparse, progress)
    else:
        journal, base = split
        written = _copy_in_disk_order(base, handle, sparse, progress)
        written += _copy_journal(source, journal, handle)
    os.fsync(handle)
    return written


def _copy_in_disk_order(source: BlockSource, handle: int, sparse: bool, progress: Progress | None) -> int:
    """Steps of the disk, a few at once: reading, opening and writing release the interpreter in turn."""

    base = source.only_map() if sparse and isinstance(source, DiskView) else None
    own = threading.local()

    def copy_chunks(start: int) -> int:
        assert base is not None
        assert isinstance(source, DiskView)
        with source.located(start, STEP):
            runs = list(base.stored_runs(start // CHUNK, (start + STEP) // CHUNK))
        return sum(_write_run(handle, pieces, offset) for offset, pieces in runs)

    def copy(start: int) -> int:
        if not hasattr(own, "buffer"):
            own.buffer = memoryview(bytearray(STEP))
        length = min(STEP, source.size - start)
        written = 0
        for extent in source.extents(start, length):
            if not (extent.zero and sparse):
                piece = own.buffer[: extent.length]
                source.read_into(extent.offset, piece)
                written += _write(handle, piece, extent.offset)
        return written

    total = 0
    with ThreadPoolExecutor(_WORKERS, thread_name_prefix="restore") as pool:
        starts = range(0, source.size, STEP)
        for start, written in zip(starts, pool.map(copy if base is None else copy_chunks, starts), strict=True):
            total += written
            if progress is not None:
                progress(min(start + STEP, source.size), source.size)
    return total


def _copy_journal(source: BlockSource, journal: list[EntryLevel], handle: int) -> int:
    """What the journal changed, oldest level first, each in the order in which it is stored: a random write costs a
    read of 4 KiB and not of its whole pack. Blocks with more to them than one write are read from the whole view."""
    written = 0
    special: list[npt.NDArray[np.int64]] = []
    for level in reversed(journal):
        index = level.whole()
        special.append(index.blocks[~simple_entries(index.blocks, index.entries)])
        for start, end in zip(index.zero_starts.tolist(), index.zero_ends.tolist(), strict=True):
            written += _zero(handle, start * BLOCK, min(end * BLOCK, source.size))
        for block, data in level.filler.in_stored_order(index):
            written += _write(handle, data.data[: source.size - block * BLOCK], block * BLOCK)
    for block in np.unique(np.concatenate(special)).tolist() if special else []:
        piece = memoryview(bytearray(min(BLOCK, source.size - block * BLOCK)))
        source.read_into(block * BLOCK, piece)
        written += _write(handle, piece, block * BLOCK)
    return written


def _zero(handle: int, start: int, end: int) -> int:
    zeroes = memoryview(bytes(min(STEP, max(0, end - start))))
    for place in range(start, end, STEP):
        _write(handle, zeroes[: end - place], place)
    return max(0, end - start)


def _write_run(handle: int, pieces: list[Buffer], offset: int) -> int:
    """Neighbouring pieces in one call; what it leaves is written one by one."""
    size = sum(len(piece) for piece in pieces)
    done = os.pwritev(handle, pieces, offset) if len(pieces) > 1 else 0
    if done < size:
        start = 0
        for piece in pieces:
            if start + len(piece) > done:
                _write(handle, memoryview(piece), offset + start)
            start += len(piece)
    return size


def _write(handle: int, piece: memoryview, offset: int) -> int:
    done = 0
    while done < len(piece):
        done += os.pwrite(handle, piece[done:], offset + done)
    return done
